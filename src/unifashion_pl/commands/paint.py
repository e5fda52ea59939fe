"""``generate``: paint images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unifashion_pl.commands.options import model_option

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands


def add(commands: Commands) -> None:
    """Add ``generate``."""
    generate = commands.add_parser("generate", help="paint an image from text, or from an image and a modifying text")
    generate.add_argument("prompt")
    generate.add_argument("--image", type=Path)
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--out", type=Path, default=Path("generated.png"))
    model_option(generate).set_defaults(handler=_generate)


def _generate(args: argparse.Namespace) -> int:
    from unifashion_pl import UniFashionModule

    model = UniFashionModule.from_pretrained(args.model)
    model.generate(args.prompt, image=args.image, seed=args.seed)[0].save(args.out)
    print(args.out)
    return 0
