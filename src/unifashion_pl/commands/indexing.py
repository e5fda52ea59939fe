"""What ``index build``, ``embed`` and ``add`` do: a catalogue's images become vectors, and these an index."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from unifashion_pl.arguments import count
from unifashion_pl.commands.options import CatalogueFiles, Kept, SearchModel, Work
from unifashion_pl.data.plan import shortened
from unifashion_pl.datamodules.catalogue_rows import read_catalogue
from unifashion_pl.files import exclusive, write_text
from unifashion_pl.gallery import building, embedding, store
from unifashion_pl.gallery.asking import read_for, require_model
from unifashion_pl.gallery.embedding import Outcome
from unifashion_pl.gallery.items import IndexItem, picture_path, typed, values_of
from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.gallery.rows import RESERVED
from unifashion_pl.gallery.staging import WHOLE, Shard
from unifashion_pl.gallery.stored import IndexSettings, Stored
from unifashion_pl.inference.encode import appearance_fingerprint, fingerprint
from unifashion_pl.inference.images import UnreadableImages
from unifashion_pl.interface import FashionModel

BAD = ".bad.csv"
#: Pictures that are left out and stand in a file of their own, because a message would not hold them.
MANY = 5


def build(catalogue: CatalogueFiles, out: Path, kept: Kept, work: Work, model: SearchModel) -> None:
    """An index of a catalogue, embedded here."""
    since = time.monotonic()
    items, encoder = _items(catalogue), model.load()
    with exclusive(out):
        folder = out / store.BUILDING
        done = _embed(folder, encoder, items, catalogue, _settings(kept, encoder), work, out)
        building.build(out, items, [building.staged(folder)])
        building.settled(folder)
    print(f"{out}: {_summary(done, 'indexed', since)}")


def build_from(vectors: Sequence[Path], catalogue: CatalogueFiles, out: Path, kept: Kept, model: SearchModel) -> None:
    """An index of a catalogue, of vectors that ``index embed`` has made."""
    since = time.monotonic()
    items, sources = _items(catalogue), building.shards(vectors)
    _require_same(kept, sources[0])
    if model.model is not None:
        encoder = QueryEncoder(model.load)
        for source in sources:
            require_model(encoder, source)
    bad = building.missing(items, _top(catalogue), sources)
    _name_bad(out, {items[place].id: fault for place, fault in bad.items()}, said=len(bad) > catalogue.max_bad)
    if len(bad) > catalogue.max_bad:
        raise UnreadableImages(bad, len(items), catalogue.max_bad)
    with exclusive(out):
        made = building.build(out, items, sources)
    told = f"{len(items):,} rows read, {len(made.rows):,} indexed, {len(bad):,} left out, {time.monotonic() - since:,.1f} s"
    print(f"{out}: {told}, from {len(sources)} folders of vectors")


def embed(catalogue: CatalogueFiles, out: Path, shard: Shard, kept: Kept, work: Work, model: SearchModel) -> None:
    """A shard's vectors, in a folder of its own."""
    since = time.monotonic()
    items, encoder = _items(catalogue), model.load()
    folder = out / f"shard-{shard.index}-of-{shard.of}"
    with exclusive(folder):
        done = _embed(folder, encoder, items, catalogue, _settings(kept, encoder), work, folder, shard)
    print(f"{folder}: {_summary(done, 'embedded', since)}")


def add(index: Path, catalogue: CatalogueFiles, replace: bool, work: Work, model: SearchModel) -> None:
    """A catalogue's images in an index that is there."""
    since = time.monotonic()
    store.require(index)
    encoder = model.load()
    with exclusive(index):
        stored = read_for(index, QueryEncoder(lambda: encoder))
        items = _items(catalogue, {name: kind for name, (_, kind) in stored.rows.columns().items()})
        known = sorted(stored.rows.keys_of([item.id for item in items]))
        if known and not replace:
            raise ValueError(f"{index} has {shortened(known)} already: --replace takes the new images instead")
        if not catalogue.texts and (stored.rows.live().captioned >= 0).any():
            print(f"note: texts count in {index}, and without --texts these images get no score by text", file=sys.stderr)
        folder = index / store.ADDING
        done = _embed(folder, encoder, items, catalogue, stored.settings, work, index)
        replaced, now = building.add(index, items, building.staged(folder))
        building.settled(folder)
    print(f"{done.there + done.made - replaced} added, {replaced} replaced, {len(now.rows)} images in {index}")
    print(_summary(done, "taken", since))


def _items(files: CatalogueFiles, known: Mapping[str, str] | None = None) -> list[IndexItem]:
    """The CSV's rows; nothing is asked about their images yet.

    Args:
        known: columns of the index, and whether they hold numbers or texts.
    """
    rows = read_catalogue(files.csv, files.root, files.columns)
    if files.texts and not any(row.text for row in rows):
        raise ValueError(f"{files.csv} has no texts: --texts needs a column text")
    given = files.columns or {}
    present = {name for row in rows for name in row.cells}
    if hidden := [name for name in RESERVED if name in present and given.get(name, name) != name]:
        print(f"note: {files.csv}: the column {' and '.join(hidden)} is left out, --columns names another", file=sys.stderr)
    ours = ["image", *RESERVED, *(["text"] if files.texts else [])]  # hits have these by our names
    gone = {*RESERVED, *(given.get(name, name) for name in ours)}
    cells = [{name: cell for name, cell in row.cells.items() if name not in gone} for row in rows]
    values = typed(cells, known or {})
    return [
        IndexItem(row.id, row.text if files.texts else "", picture_path(row.image), row.product, values_of(value, row.id))
        for row, value in zip(rows, values)
    ]


def _top(files: CatalogueFiles) -> Path:
    """The folder of the images as rows have it."""
    return Path(os.path.abspath(files.root))


def _settings(kept: Kept, model: FashionModel) -> IndexSettings:
    """Of an index whose vectors a model makes."""
    few, read = (None if n is None else count(n, name) for n, name in ((kept.pool, "pool"), (kept.coarse, "coarse")))
    return IndexSettings(kept.queries, fingerprint(model), kept.storage, few, read, appearance_fingerprint(model))


def _require_same(kept: Kept, source: Stored) -> None:
    """Refuse options that ready vectors cannot follow."""
    for name, value in vars(kept).items():
        there = getattr(source.settings, {"queries": "query_set"}.get(name, name))
        if value not in (getattr(Kept(), name), there):
            raise ValueError(f"vectors in {source.folder} have {name} {there}, not {value}: embed them again")


def _embed(
    folder: Path,
    model: FashionModel,
    items: Sequence[IndexItem],
    catalogue: CatalogueFiles,
    settings: IndexSettings,
    work: Work,
    beside: Path,
    shard: Shard = WHOLE,
) -> Outcome:
    """Embed into a folder; pictures that cannot be used are named, many in a file beside ``beside``."""
    try:
        done = embedding.embed(
            folder,
            model,
            items,
            _top(catalogue),
            settings,
            shard=shard,
            max_bad=catalogue.max_bad,
            workers=work.workers,
            anew=work.anew,
        )
    except UnreadableImages as error:
        own = [item.id for item in items if shard.has(item.id)]
        _name_bad(beside, {own[place]: fault for place, fault in error.bad.items()}, said=True)
        raise
    _name_bad(beside, done.bad)
    return done


def _name_bad(beside: Path, bad: Mapping[str, str], said: bool = False) -> None:
    """Say which pictures are left out; many of them in a file, which is gone when there are none."""
    place = beside.with_name(beside.name + BAD)
    if bad and not said:
        print(f"{len(bad):,} images are left out: {shortened(bad.values(), MANY)}", file=sys.stderr)
    if len(bad) > MANY:
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows([("id", "problem"), *bad.items()])
        print(f"all of them: {write_text(place, text.getvalue())}", file=sys.stderr)
    elif place.is_file():
        place.unlink()


def _summary(done: Outcome, what: str, since: float) -> str:
    """The last line of a command."""
    earlier = f" ({done.there:,} of them embedded before)" if done.there else ""
    rate = f", embedded {done.made / done.seconds:,.1f} images/s" if done.made else ""
    return (
        f"{done.rows:,} rows read, {done.there + done.made:,} {what}{earlier}, {len(done.bad):,} left out, "
        f"{time.monotonic() - since:,.1f} s{rate}"
    )
