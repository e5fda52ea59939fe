"""``ablations``: Tables 4 and 5 of the paper."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands


def add(commands: Commands) -> None:
    """Add ``ablations``."""
    parser = commands.add_parser("ablations", help="the paper's Table 4 or 5 on the toy wardrobe: train, test, print")
    parser.add_argument("table", choices=("table4", "table5"))
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the runs and the table; what is done in it is not done again"
    )
    parser.add_argument("--phase1-epochs", type=int, help="instead of phase1.yaml's")
    parser.add_argument("--phase2-steps", type=int, help="instead of phase2.yaml's")
    parser.add_argument("--seed", type=int, default=0, help="of training; the wardrobe stays the same")
    parser.add_argument("--size", default="demo", choices=("tiny", "demo"), help="of the wardrobe")
    parser.set_defaults(handler=_ablations)


def _ablations(args: argparse.Namespace) -> int:
    from unifashion_pl.ablations import Settings, make_table

    print(make_table(args.table, args.out, Settings(args.size, args.phase1_epochs, args.phase2_steps, args.seed)))
    return 0
