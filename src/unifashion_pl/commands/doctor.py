"""``doctor``: what can run here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands


def add(commands: Commands) -> None:
    """Add ``doctor``."""
    doctor = commands.add_parser("doctor", help="versions, device, and what can run here")
    doctor.add_argument("--config", action="append", help="also say what a training with these configs needs, e.g. paper.yaml")
    doctor.add_argument(
        "--commercial-only",
        action="store_true",
        help="with --config: refuse parts that are not known to be free for commercial use",
    )
    doctor.set_defaults(handler=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from unifashion_pl.doctor import examine, examine_overlay

    if args.commercial_only and not args.config:
        raise ValueError("--commercial-only looks at a training's parts: name its --config too, e.g. commercial.yaml")
    print(examine())
    if args.config:
        print(examine_overlay(args.config, args.commercial_only))
    return 0
