"""``caption``: describe images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from unifashion_pl.commands.options import load_model, max_bad_option, model_option

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands

BATCH = 8


def add(commands: Commands) -> None:
    """Add ``caption``."""
    caption = commands.add_parser("caption", help="describe images")
    caption.add_argument("images", nargs="+", type=Path)
    caption.add_argument("--style", default="fashiongen", choices=("fashion200k", "fashiongen", "fashioniq"))
    max_bad_option(caption, "leave out up to N images that cannot be read")
    model_option(caption).set_defaults(handler=_caption)


def _caption(args: argparse.Namespace) -> int:
    """Each caption is printed as soon as it is made, so that an interruption loses none."""
    from unifashion_pl.inference_images import left_out, unreadable

    bad = unreadable(args.images, args.max_bad)
    images = [path for i, path in enumerate(args.images) if i not in bad]
    if bad:
        print(left_out(bad), file=sys.stderr)
    if not images:
        raise ValueError("none of the images can be used")
    model = load_model(args)
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        for path, text in zip(part, model.caption(part, style=args.style, batch_size=BATCH)):
            print(f"{path}\t{text}", flush=True)
    return 0
