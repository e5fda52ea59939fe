"""``index``: search in one's own catalogue."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unifashion_pl.commands.options import model_option

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands


def add(commands: Commands) -> None:
    """Add ``index``."""
    parser = commands.add_parser("index", help="search your own catalogue")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="CSV + folder of images -> index")
    build.add_argument("--csv", type=Path, required=True)
    build.add_argument("--root", type=Path, required=True, help="folder of the images")
    build.add_argument("--out", type=Path, required=True)
    build.add_argument(
        "--queries", default="both", choices=("reference", "target", "both"), help="reference: text or image; target: composed"
    )
    model_option(build).set_defaults(handler=_index_build)
    search = actions.add_parser("search", help="by text, image, or image + modifying text")
    search.add_argument("index", type=Path)
    search.add_argument("--text")
    search.add_argument("--image", type=Path)
    search.add_argument("-k", type=int, default=10)
    model_option(search).set_defaults(handler=_index_search)


def _index_build(args: argparse.Namespace) -> int:
    from unifashion_pl import UniFashionModule
    from unifashion_pl.datamodules.catalogue import read_catalogue

    model = UniFashionModule.from_pretrained(args.model)
    rows = read_catalogue(args.csv, args.root)
    gallery = model.gallery([row.image for row in rows], ids=[row.id for row in rows], query_set=args.queries)
    print(gallery.save(args.out))
    return 0


def _index_search(args: argparse.Namespace) -> int:
    from unifashion_pl import UniFashionModule
    from unifashion_pl.gallery import Gallery

    gallery = Gallery.load(args.index, UniFashionModule.from_pretrained(args.model))
    for rank, hit in enumerate(gallery.search(text=args.text, image=args.image, k=args.k), 1):
        print(f"{rank}\t{hit.score:.4f}\t{hit.id}")
    return 0
