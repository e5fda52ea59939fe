"""``data features``: a frozen vision tower's outputs, made once, so that training need not run the tower."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unifashion_pl.commands.options import device_of, load_model, max_bad_option, model_option

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands
    from unifashion_pl.module import UniFashionModule


def add(actions: Commands) -> None:
    """Add ``features`` to the actions of ``data``."""
    parser = actions.add_parser(
        "features", help="run a frozen vision tower (of --model, which may also be a .yaml) over training shards once"
    )
    parser.add_argument("--shards", type=Path, required=True, help="a folder with index.json, or one that holds such folders")
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp32"), help="bf16: half the size; fp32: the very numbers")
    parser.add_argument("--out", type=Path, help="write here instead of beside the shards")
    parser.add_argument("--batch-size", type=int, default=64, help="images that the tower sees at once")
    parser.add_argument("--workers", type=int, default=2, help="threads that decode")
    max_bad_option(parser, "go on without features of up to N damaged samples")
    model_option(parser).set_defaults(handler=_features)


def _features(args: argparse.Namespace) -> int:
    from unifashion_pl.data.make_features import write_features
    from unifashion_pl.files import check_writable

    folders = _folders(args.shards)
    for place in folders if args.out is None else [args.out]:
        check_writable(place, folder=True)
    tower = _model(args).backbone.vision.eval()
    tower.to(device_of(args))
    for folder in folders:
        out = (
            None if args.out is None else args.out / folder.relative_to(args.shards if folder != args.shards else folder.parent)
        )
        made = write_features(
            folder, tower, dtype=args.dtype, out=out, batch_size=args.batch_size, workers=args.workers, max_bad=args.max_bad
        )
        print(made)
    return 0


def _model(args: argparse.Namespace) -> UniFashionModule:
    """As everywhere, and from a .yaml before there is any checkpoint: phase 1 starts from a tower whose weights its config names."""
    from unifashion_pl import UniFashionModule

    return UniFashionModule.from_config(args.model) if args.model.endswith((".yaml", ".yml")) else load_model(args)


def _folders(root: Path) -> list[Path]:
    """Folders of training shards; others are named.

    Raises:
        FileNotFoundError: no training shards below ``root``.
    """
    from unifashion_pl.data.features import FOLDER
    from unifashion_pl.data.index import NAME, ShardIndex
    from unifashion_pl.data.make_features import TOWER_FIELDS
    from unifashion_pl.data.plan import TRAIN

    found = (
        [root] if (root / NAME).is_file() else sorted(path.parent for path in root.rglob(NAME) if path.parent.name != FOLDER)
    )
    folders = []
    for folder in found:
        index = ShardIndex.load(folder)
        if index.split == TRAIN and index.kind in TOWER_FIELDS:
            folders.append(folder)
        else:
            print(f"{folder}: {index.name} ({index.kind}) is left out, because evaluation reads pixels")
    if not folders:
        raise FileNotFoundError(
            f"no training shards in {root}: expected a folder with {NAME} whose split is {TRAIN}, or one that holds such folders. "
            "Shards are made by `unifashion data shards DATASET --root RAW --out SHARDS`"
        )
    return folders
