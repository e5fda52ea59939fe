"""``report``: run folders -> one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands


def add(commands: Commands) -> None:
    """Add ``report``."""
    report = commands.add_parser("report", help="run folders -> one HTML page")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    report.add_argument("--out", type=Path, default=Path("report.html"))
    report.set_defaults(handler=_report)


def _report(args: argparse.Namespace) -> int:
    from unifashion_pl.files import check_writable
    from unifashion_pl.report import build_report

    check_writable(args.out)
    print(build_report(args.runs, args.out))
    return 0
