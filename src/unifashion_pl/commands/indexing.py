"""``index build``, ``embed`` and ``add``: a catalogue's images become vectors, and these an index."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from unifashion_pl.commands.options import MaxBad, SearchModel, count_from_0
from unifashion_pl.commands.signature import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from unifashion_pl.gallery.embedding import Outcome
    from unifashion_pl.gallery.items import IndexItem
    from unifashion_pl.gallery.stored import IndexSettings
    from unifashion_pl.interface import FashionModel

BAD = ".bad.csv"
#: Pictures that are left out and stand in a file of their own, because a message would not hold them.
MANY = 5


def _columns(text: str) -> dict[str, str]:
    """``image=photo,text=title`` as a mapping."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    if wrong := [pair[0] for pair in pairs if not all(part.strip() for part in pair)]:
        raise ArgumentTypeError(f"{wrong[0]!r} names no column: expected OURS=YOURS, e.g. image=photo,text=title,id=sku")
    named = [ours.strip() for ours, _, _ in pairs]
    if twice := [name for name in named if named.count(name) > 1]:
        raise ArgumentTypeError(f"{twice[0]!r} is named {named.count(twice[0])} times, expected one column for each")
    return dict(zip(named, (yours.strip() for _, _, yours in pairs)))


@dataclass(kw_only=True)
class CatalogueFiles:
    """A CSV and its images."""

    csv: Annotated[
        Path,
        "a row an image: a column image, perhaps text, id and product; all other columns come back in hits, --where and --facets",
    ]
    root: Annotated[Path, "folder of the images"]
    columns: Annotated[
        dict[str, str] | None,
        {
            "type": _columns,
            "metavar": "OURS=YOURS,…",
            "help": "where the CSV has names of its own, e.g. image=photo,text=title,id=sku,product=parent",
        },
    ] = None
    max_bad: Annotated[MaxBad, "leave out up to N images that cannot be read; each is named"] = 0
    texts: Annotated[bool, "the CSV's texts count in searches by text, beside the images"] = False

    def items(self, known: Mapping[str, str] | None = None) -> list[IndexItem]:
        """The CSV's rows; nothing is asked about their images yet.

        Args:
            known: columns of the index, and whether they hold numbers or texts.
        """
        from unifashion_pl.datamodules.catalogue_rows import read_catalogue
        from unifashion_pl.gallery.items import IndexItem, picture_path, typed, values_of
        from unifashion_pl.gallery.rows import RESERVED

        rows = read_catalogue(self.csv, self.root, self.columns)
        if self.texts and not any(row.text for row in rows):
            raise ValueError(f"{self.csv} has no texts: --texts needs a column text")
        given = self.columns or {}
        present = {name for row in rows for name in row.cells}
        if hidden := [name for name in RESERVED if name in present and given.get(name, name) != name]:
            print(f"note: {self.csv}: the column {' and '.join(hidden)} is left out, --columns names another", file=sys.stderr)
        gone = {*RESERVED, given.get("image")}
        cells = [{name: cell for name, cell in row.cells.items() if name not in gone} for row in rows]
        values = typed(cells, known or {})
        return [
            IndexItem(row.id, row.text if self.texts else "", picture_path(row.image), row.product, values_of(value, row.id))
            for row, value in zip(rows, values)
        ]

    def top(self) -> Path:
        """The folder of the images as rows have it."""
        return Path(os.path.abspath(self.root))


@dataclass(kw_only=True)
class Kept:
    """For which searches vectors are, and how they are kept."""

    queries: Annotated[Literal["reference", "target", "both"], "reference: text or image; target: composed"] = "both"
    storage: Annotated[
        Literal["fp32", "fp16", "int8"],
        "how vectors are kept; int8 takes a fifth of fp32's place, see benchmarks/RESULTS.md for what is lost",
    ] = "fp32"
    pool: Annotated[int | None, {"metavar": "N", "help": "keep N tokens of each image, near ones as their mean"}] = None
    coarse: Annotated[
        int | None,
        {"metavar": "N", "help": "for some 200,000 images and more: a search reads N tokens of each first; 1 = their mean"},
    ] = None

    def settings(self, model: FashionModel) -> IndexSettings:
        """Of an index whose vectors a model makes."""
        from unifashion_pl.arguments import count
        from unifashion_pl.gallery.stored import IndexSettings
        from unifashion_pl.inference.encode import fingerprint

        few, read = (None if n is None else count(n, name) for n, name in ((self.pool, "pool"), (self.coarse, "coarse")))
        return IndexSettings(self.queries, fingerprint(model), self.storage, few, read)

    def agree(self, settings: IndexSettings, what: Path) -> None:
        """Refuse options that ready vectors cannot follow."""
        usual = Kept()
        there = Kept(queries=settings.query_set, storage=settings.storage, pool=settings.pool, coarse=settings.coarse)
        for name, value in vars(self).items():
            if value != getattr(usual, name) and value != getattr(there, name):
                raise ValueError(f"vectors in {what} have {name} {getattr(there, name)}, not {value}: embed them again")


@dataclass(kw_only=True)
class Work:
    """How images are embedded."""

    workers: Annotated[
        int, {"type": count_from_0, "metavar": "N", "help": "processes that decode images; 0 = none beside this one"}
    ] = 0
    anew: Annotated[bool, "throw away what an interrupted run has embedded, instead of going on from there"] = False

    def embed(
        self,
        folder: Path,
        model: FashionModel,
        items: Sequence[IndexItem],
        catalogue: CatalogueFiles,
        settings: IndexSettings,
        **of: Any,
    ) -> Outcome:
        """Embed into a folder, perhaps one ``shard`` of all items; pictures that cannot be used are named, many in a file beside ``beside``."""
        from unifashion_pl.gallery.embedding import embed
        from unifashion_pl.gallery.staging import WHOLE
        from unifashion_pl.inference.images import UnreadableImages

        beside, shard = of["beside"], of.get("shard", WHOLE)
        options: dict[str, Any] = {"max_bad": catalogue.max_bad, "workers": self.workers, "anew": self.anew}
        try:
            done = embed(folder, model, items, catalogue.top(), settings, shard=shard, **options)
        except UnreadableImages as error:
            own = [item.id for item in items if shard.has(item.id)]
            _name_bad(beside, {own[place]: fault for place, fault in error.bad.items()}, said=True)
            raise
        _name_bad(beside, done.bad)
        return done


def _name_bad(beside: Path, bad: Mapping[str, str], said: bool = False) -> None:
    """Say which pictures are left out; many of them in a file, which is gone when there are none."""
    import csv
    from io import StringIO

    from unifashion_pl.data.plan import shortened
    from unifashion_pl.files import write_text

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


def build(
    *,
    catalogue: CatalogueFiles,
    out: Annotated[Path, FOLDER],
    vectors: Annotated[
        list[Path] | None,
        {"metavar": "FOLDER", "help": "take what `index embed` made, all shards; no model is loaded unless --model is given"},
    ] = None,
    kept: Kept,
    work: Work,
    model: SearchModel,
) -> None:
    """CSV + folder of images -> index; an interrupted one is gone on with by the same command."""
    from unifashion_pl.files import exclusive
    from unifashion_pl.gallery import building, staging, store

    since = time.monotonic()
    staging.refuse(out)
    items = catalogue.items()
    if vectors:
        _build_from(vectors, items, catalogue, out, kept, model, since)
        return
    encoder = model.load()
    with exclusive(out):
        folder = out / store.BUILDING
        done = work.embed(folder, encoder, items, catalogue, kept.settings(encoder), beside=out)
        building.build(out, items, [building.staged(folder)])
        building.settled(folder)
    print(f"{out}: {_summary(done, 'indexed', since)}")


def _build_from(
    vectors: Sequence[Path],
    items: Sequence[IndexItem],
    catalogue: CatalogueFiles,
    out: Path,
    kept: Kept,
    model: SearchModel,
    since: float,
) -> None:
    from unifashion_pl.files import exclusive
    from unifashion_pl.gallery import building

    sources = building.shards(vectors)
    kept.agree(sources[0].stored.settings, sources[0].folder)
    if model.model is not None:
        from unifashion_pl.gallery.asking import read_for
        from unifashion_pl.gallery.queries import QueryEncoder

        encoder = QueryEncoder(model.load)
        for source in sources:
            read_for(source.folder, encoder, staged=True)
    bad = building.missing(items, catalogue.top(), sources)
    _name_bad(out, {items[place].id: fault for place, fault in bad.items()}, said=len(bad) > catalogue.max_bad)
    if len(bad) > catalogue.max_bad:
        from unifashion_pl.inference.images import UnreadableImages

        raise UnreadableImages(bad, len(items), catalogue.max_bad)
    with exclusive(out):
        made = building.build(out, items, sources)
    told = f"{len(items):,} rows read, {len(made.rows):,} indexed, {len(bad):,} left out, {time.monotonic() - since:,.1f} s"
    print(f"{out}: {told}, from {len(sources)} folders of vectors")


def embed(
    *,
    catalogue: CatalogueFiles,
    out: Annotated[Path, FOLDER, "of all shards; each writes into a folder of its own there"],
    shard: Annotated[
        str | None, {"metavar": "I/N", "help": "embed share I of N, from 0; default: the rank of torchrun or SLURM"}
    ] = None,
    kept: Kept,
    work: Work,
    model: SearchModel,
) -> None:
    """CSV + folder of images -> vectors for `index build --vectors`, on as many ranks and machines as there are."""
    from unifashion_pl.files import exclusive
    from unifashion_pl.gallery.staging import Shard

    since = time.monotonic()
    own = Shard.here() if shard is None else Shard.read(shard)
    items, encoder = catalogue.items(), model.load()
    folder = out / f"shard-{own.index}-of-{own.of}"
    with exclusive(folder):
        done = work.embed(folder, encoder, items, catalogue, kept.settings(encoder), beside=folder, shard=own)
    print(f"{folder}: {_summary(done, 'embedded', since)}")


def add(
    index: Path,
    *,
    catalogue: CatalogueFiles,
    replace: Annotated[bool, "of ids that are there already take the new image"] = False,
    work: Work,
    model: SearchModel,
) -> None:
    """Put the images of a CSV into an index, all in one commit; an interrupted run is gone on with by the same command."""
    from unifashion_pl.data.plan import shortened
    from unifashion_pl.files import exclusive
    from unifashion_pl.gallery import building, store
    from unifashion_pl.gallery.asking import read_for
    from unifashion_pl.gallery.queries import QueryEncoder

    since = time.monotonic()
    store.require(index)
    encoder = model.load()
    with exclusive(index):
        stored = read_for(index, QueryEncoder(lambda: encoder))
        items = catalogue.items({name: kind for name, (_, kind) in stored.rows.columns().items()})
        known = sorted(stored.rows.keys_of([item.id for item in items]))
        if known and not replace:
            raise ValueError(f"{index} has {shortened(known)} already: --replace takes the new images instead")
        folder = index / store.ADDING
        done = work.embed(folder, encoder, items, catalogue, stored.settings, beside=index)
        replaced, now = building.add(index, items, building.staged(folder))
        building.settled(folder)
    print(f"{done.there + done.made - replaced} added, {replaced} replaced, {len(now.rows)} images in {index}")
    print(_summary(done, "taken", since))
