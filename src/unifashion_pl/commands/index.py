"""``index``: search in one's own catalogue."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unifashion_pl.commands.options import load_model, max_bad_option, model_option

if TYPE_CHECKING:
    from unifashion_pl.commands import Commands
    from unifashion_pl.gallery import Gallery


def add(commands: Commands) -> None:
    """Add ``index``."""
    parser = commands.add_parser("index", help="search your own catalogue")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="CSV + folder of images -> index")
    _catalogue(build)
    build.add_argument("--out", type=Path, required=True)
    build.add_argument(
        "--queries", default="both", choices=("reference", "target", "both"), help="reference: text or image; target: composed"
    )
    model_option(build).set_defaults(handler=_index_build)
    more = actions.add_parser("add", help="put the images of a CSV into an index")
    more.add_argument("index", type=Path)
    _catalogue(more)
    more.add_argument("--replace", action="store_true", help="of ids that are there already take the new image")
    model_option(more).set_defaults(handler=_index_add)
    remove = actions.add_parser("remove", help="take images out of an index")
    remove.add_argument("index", type=Path)
    remove.add_argument("ids", nargs="+", metavar="ID")
    model_option(remove).set_defaults(handler=_index_remove)
    search = actions.add_parser(
        "search", help="by text, image, or image + modifying text: rank, score, id, what made the score"
    )
    search.add_argument("index", type=Path)
    search.add_argument("--text")
    search.add_argument("--image", type=Path)
    search.add_argument("-k", type=int, default=10)
    model_option(search).set_defaults(handler=_index_search)


def _catalogue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="folder of the images")
    max_bad_option(parser, "leave out up to N images that cannot be read")
    parser.add_argument("--texts", action="store_true", help="the CSV's texts count in searches by text, beside the images")


def _rows(args: argparse.Namespace) -> dict[str, Any]:
    """Images, ids and captions of the CSV, without the few images that cannot be read; those are named.

    Raises:
        UnreadableImages: they are more than ``--max-bad``.
    """
    from unifashion_pl.datamodules.catalogue import read_catalogue
    from unifashion_pl.inference_images import left_out, unreadable

    rows = read_catalogue(args.csv, args.root)
    if bad := unreadable([row.image for row in rows], args.max_bad):
        print(left_out(bad), file=sys.stderr)
        rows = [row for i, row in enumerate(rows) if i not in bad]
    if not rows:
        raise ValueError(f"{args.csv}: none of the images can be used")
    captions = [row.text for row in rows] if args.texts else None
    if captions is not None and not any(captions):
        raise ValueError(f"{args.csv} has no texts: --texts needs a column text")
    return {"images": [row.image for row in rows], "ids": [row.id for row in rows], "captions": captions}


def _load(args: argparse.Namespace) -> Gallery:
    from unifashion_pl.gallery import Gallery
    from unifashion_pl.gallery.store import description_at

    description_at(args.index)
    return Gallery.load(args.index, load_model(args))


@contextmanager
def _changing(args: argparse.Namespace) -> Iterator[Gallery]:
    """The index, saved when the block ends well; other commands that would change it wait until then."""
    from unifashion_pl.files import exclusive
    from unifashion_pl.gallery import Gallery
    from unifashion_pl.gallery.store import description_at

    description_at(args.index)
    model = load_model(args)
    with exclusive(args.index):
        gallery = Gallery.load(args.index, model)
        yield gallery
        gallery.save(args.index)


def _index_build(args: argparse.Namespace) -> int:
    from unifashion_pl.files import check_writable, exclusive

    out, rows = check_writable(args.out, folder=True), _rows(args)
    model = load_model(args)
    with exclusive(out):
        print(model.gallery(**rows, query_set=args.queries).save(out))
    return 0


def _index_add(args: argparse.Namespace) -> int:
    from unifashion_pl.data.plan import some

    rows = _rows(args)
    with _changing(args) as gallery:
        known = sorted(set(rows["ids"]) & set(gallery.ids))
        if known and not args.replace:
            raise ValueError(f"{args.index} has {some(known)} already: --replace takes the new images instead")
        gallery.remove(known).add(**rows)
    print(f"{len(rows['ids']) - len(known)} added, {len(known)} replaced, {len(gallery)} images in {args.index}")
    return 0


def _index_remove(args: argparse.Namespace) -> int:
    from unifashion_pl.data.plan import some

    with _changing(args) as gallery:
        if unknown := set(args.ids) - set(gallery.ids):
            raise ValueError(f"not in {args.index}, which holds {len(gallery)} images: {some(sorted(unknown))}")
        gallery.remove(args.ids)
    print(f"{len(set(args.ids))} removed, {len(gallery)} images in {args.index}")
    return 0


def _index_search(args: argparse.Namespace) -> int:
    for rank, hit in enumerate(_load(args).search(text=args.text, image=args.image, k=args.k), 1):
        print(f"{rank}\t{hit.score:.4f}\t{hit.id}\t{hit.explanation}")
    return 0
