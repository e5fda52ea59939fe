"""``caption``: describe images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unifashion_pl.commands.options import load_model, model_option

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands


def add(commands: Commands) -> None:
    """Add ``caption``."""
    caption = commands.add_parser("caption", help="describe images")
    caption.add_argument("images", nargs="+", type=Path)
    caption.add_argument("--style", default="fashiongen", choices=("fashion200k", "fashiongen", "fashioniq"))
    model_option(caption).set_defaults(handler=_caption)


def _caption(args: argparse.Namespace) -> int:
    model = load_model(args)
    for path, text in zip(args.images, model.caption(args.images, style=args.style)):
        print(f"{path}\t{text}")
    return 0
