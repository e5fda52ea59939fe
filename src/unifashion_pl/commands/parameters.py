"""``parameters``: how many parameters train and how many are frozen."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands


def add(commands: Commands) -> None:
    """Add ``parameters``."""
    parser = commands.add_parser(
        "parameters", help="trainable and frozen parameters of configs, counted without weights or memory"
    )
    parser.add_argument(
        "--config", action="append", help="as for fit, may be repeated; default: the paper's size, stage by stage"
    )
    parser.set_defaults(handler=_parameters)


def _parameters(args: argparse.Namespace) -> int:
    from unifashion_pl.parameters import shapes_only, stage_table

    print(shapes_only(args.config).describe_parameters() if args.config else stage_table())
    return 0
