"""``data``: the toy wardrobe, dataset checks, shards, captions."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands


def add(commands: Commands) -> None:
    """Add ``data``."""
    from unifashion_pl.commands import annotate, features
    from unifashion_pl.data.check import DATASETS
    from unifashion_pl.wardrobe.dirt import KINDS
    from unifashion_pl.wardrobe.write import LAYOUTS

    parser = commands.add_parser("data", help="the toy wardrobe, dataset checks, shards")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    wardrobe = actions.add_parser("wardrobe", help="write the procedural catalogue in the datasets' raw layouts")
    wardrobe.add_argument("--out", type=Path, required=True)
    wardrobe.add_argument("--size", default="demo", choices=("tiny", "demo"))
    wardrobe.add_argument("--products", type=int, help="number of training products instead of the size's")
    wardrobe.add_argument("--seed", type=int, default=0)
    wardrobe.add_argument("--workers", type=int)
    names: dict[str, Any] = {
        "type": lambda text: [name.strip() for name in text.split(",") if name.strip()],
        "default": [],
        "metavar": "NAME,…",
    }
    wardrobe.add_argument("--layouts", **names, help=f"also write {', '.join(LAYOUTS)}, or all")
    wardrobe.add_argument(
        "--dirt", **names, help=f"break some files on purpose: {', '.join(KINDS)}, or all; dirt.json says which"
    )
    wardrobe.set_defaults(handler=_wardrobe)
    check = actions.add_parser("check", help="what of a dataset is there, missing or broken")
    shards = actions.add_parser("shards", help="raw layout -> WebDataset shards + index.json")
    for sub in (check, shards):
        sub.add_argument("dataset", choices=DATASETS)
        sub.add_argument("--root", type=Path, required=True)
    check.add_argument("--json", type=Path, help="also write the findings here")
    check.set_defaults(handler=_check)
    shards.add_argument("--out", type=Path, required=True)
    shards.add_argument("--workers", type=int, default=1)
    shards.add_argument("--allow-missing", action="store_true", help="build evaluation splits although samples are lost")
    shards.set_defaults(handler=_shards)
    annotate.add(actions)
    features.add(actions)


def _wardrobe(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from unifashion_pl.files import check_writable
    from unifashion_pl.wardrobe import SIZES, write_wardrobe

    check_writable(args.out, folder=True)
    spec = SIZES[args.size]
    if args.products is not None:
        spec = replace(spec, products_train=args.products)
    print(write_wardrobe(args.out, spec=spec, seed=args.seed, workers=args.workers, layouts=args.layouts, dirt=args.dirt))
    return 0


def _check(args: argparse.Namespace) -> int:
    from unifashion_pl.data.check import check_dataset
    from unifashion_pl.data.check_text import report_text
    from unifashion_pl.files import check_writable, write_text

    if args.json:
        check_writable(args.json)
    report = check_dataset(args.dataset, args.root)
    print(report_text(report))
    if args.json:
        write_text(args.json, json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n")
    return 0 if report.complete else 1


def _shards(args: argparse.Namespace) -> int:
    from unifashion_pl.data.check import build_shards
    from unifashion_pl.data.index import ShardIndex
    from unifashion_pl.data.plan import some
    from unifashion_pl.files import check_writable

    check_writable(args.out, folder=True)
    for index in build_shards(args.dataset, args.root, args.out, workers=args.workers, allow_missing=args.allow_missing):
        print(index)
        if lost := ShardIndex.load(index.parent).missing:
            named = some((f"{entry['role']} {entry['id']}: {entry['reason']}" for entry in lost), 20)
            print(f"{len(lost):,} samples are left out: {named}", file=sys.stderr)
    return 0
