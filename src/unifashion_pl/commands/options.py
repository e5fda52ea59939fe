"""Options that several commands share."""

from __future__ import annotations

import argparse


def model_option(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """``--model``."""
    parser.add_argument("--model", default="tiny", help="tiny, a folder, a .ckpt or a hub id")
    return parser
