"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from unifashion_pl.weights.trust import SWITCH

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
    """``--model``, ``--trust_remote_code`` and ``--device``."""
    parser.add_argument("--model", default="tiny", help="tiny, a folder, a .ckpt or a hub id")
    return device_option(trust_option(parser))


def trust_option(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """``--trust_remote_code``, wherever a model is named."""
    parser.add_argument(
        f"--{SWITCH}",
        f"--{SWITCH.replace('_', '-')}",
        dest=SWITCH,
        action="store_true",
        help="let the model name classes that are not of this library; they may run any program",
    )
    return parser


def device_of(args: argparse.Namespace) -> str:
    """``--device``, or the first GPU, or the CPU."""
    import torch

    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")


def load_model(args: argparse.Namespace) -> UniFashionModule:
    """``--model`` on its device."""
    from unifashion_pl import UniFashionModule

    return UniFashionModule.from_pretrained(args.model, trust_remote_code=args.trust_remote_code).to(device_of(args))
