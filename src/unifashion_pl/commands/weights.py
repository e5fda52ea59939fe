"""``weights``: published checkpoints that can be imported, what a downloaded one is, and the import itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands


def add(commands: Commands) -> None:
    """Add ``weights``."""
    parser = commands.add_parser("weights", help="published checkpoints: list, check, import")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="published parts with licence, size and hash")
    listing.add_argument(
        "--commercial-only", action="store_true", help="only parts free for commercial use by their publishers' word"
    )
    listing.set_defaults(handler=_list)
    check = actions.add_parser("check", help="what a file or folder is, and whether it is complete")
    check.add_argument("path", type=Path)
    check.set_defaults(handler=_check)
    convert = actions.add_parser("import", help="published checkpoint -> safetensors in our names + report.json")
    convert.add_argument("path", type=Path, help="file or folder as downloaded")
    convert.add_argument(
        "--out", type=Path, required=True, help="folder to be made; it appears only if everything is accounted for"
    )
    convert.add_argument("--as", dest="kind", metavar="KIND", help="instead of recognising it, one of the kinds below")
    convert.add_argument(
        "--part", metavar="NAME", help="which of `weights list` it is, where its hash does not tell: its licence counts"
    )
    convert.add_argument("--tower", type=Path, help="vision tower (eva_vit_g.pth) for BLIP-2 files without it")
    convert.add_argument(
        "--base", type=Path, help="language model folder to which a LoRA is added; without it the LoRA is kept apart"
    )
    convert.add_argument(
        "--commercial-only", action="store_true", help="refuse what the manifest does not know to be free for it"
    )
    convert.set_defaults(handler=_import)
    kinds = "kinds of checkpoints: " + "; ".join(f"{kind}: {what}" for kind, what in _kinds().items())
    convert.epilog = kinds


def _kinds() -> dict[str, str]:
    from unifashion_pl.weights.kinds import KINDS

    return KINDS


def _list(args: argparse.Namespace) -> int:
    from unifashion_pl.weights.manifest import load_manifest, table

    print(table([part for part in load_manifest() if part.commercial == "yes" or not args.commercial_only]))
    return 0


def _check(args: argparse.Namespace) -> int:
    from unifashion_pl.weights.check import check_weights

    found = check_weights(args.path, progress=True)
    print(found.text())
    return 0 if found.complete else 1


def _import(args: argparse.Namespace) -> int:
    from unifashion_pl.files import check_writable
    from unifashion_pl.weights.importing import import_weights

    check_writable(args.out, folder=True)
    report = import_weights(
        args.path,
        args.out,
        kind=args.kind,
        part=args.part,
        tower=args.tower,
        base=args.base,
        commercial_only=args.commercial_only,
        progress=True,
    )
    print(report.text())
    print(f"-> {args.out}")
    return 0
