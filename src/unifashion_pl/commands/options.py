"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule


def device_option(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """``--device``."""
    parser.add_argument("--device", help="e.g. cuda or cpu; default: the first GPU if there is one")
    return parser


def max_bad_option(parser: argparse.ArgumentParser, what: str) -> argparse.ArgumentParser:
    """``--max-bad``, a number that is not negative."""

    def count(text: str) -> int:
        if not text.isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
        return int(text)

    parser.add_argument("--max-bad", type=count, default=0, metavar="N", help=f"{what}; each is named")
    return parser


def model_option(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """``--model`` and ``--device``."""
    parser.add_argument("--model", default="tiny", help="tiny, a folder, a .ckpt or a hub id")
    return device_option(parser)


def device_of(args: argparse.Namespace) -> str:
    """``--device``, or the first GPU, or the CPU."""
    import torch

    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")


def load_model(args: argparse.Namespace) -> UniFashionModule:
    """``--model`` on its device."""
    from unifashion_pl import UniFashionModule

    return UniFashionModule.from_pretrained(args.model).to(device_of(args))
