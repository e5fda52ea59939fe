"""``index``: a catalogue becomes an index, is searched, changed, compared, and put on a server.

What embeds images lies in :mod:`unifashion_pl.commands.indexing`, what asks a server in rooms that need its client: both are imported when they are
asked for.
"""

from __future__ import annotations

import json as json_
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from unifashion_pl.arguments import count
from unifashion_pl.commands.options import CatalogueFiles, Kept, NoModel, SearchModel, Work
from unifashion_pl.commands.signature import FILE, FOLDER
from unifashion_pl.files import exclusive, write_text
from unifashion_pl.gallery import store
from unifashion_pl.gallery.asking import Asking, SearchOptions, read_for
from unifashion_pl.gallery.calibration import Verdict, verdict
from unifashion_pl.gallery.calibration import calibrate as calibrated
from unifashion_pl.gallery.hits import Hits
from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.gallery.questions import ask, listing, read_queries
from unifashion_pl.gallery.staging import Shard, refuse
from unifashion_pl.inference.exported import ExportedModel, is_export
from unifashion_pl.inference.text_encoder import TextEncoder
from unifashion_pl.toy import tell_of_hits
from unifashion_pl.trec import write_trec


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
    from unifashion_pl.commands import indexing

    refuse(out)
    if vectors:
        indexing.build_from(vectors, catalogue, out, kept, model)
    else:
        indexing.build(catalogue, out, kept, work, model)


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
    from unifashion_pl.commands import indexing

    indexing.embed(catalogue, out, Shard.here() if shard is None else Shard.read(shard), kept, work, model)


def add(
    index: Path,
    *,
    catalogue: CatalogueFiles,
    replace: Annotated[bool, "of ids that are there already take the new image"] = False,
    work: Work,
    model: SearchModel,
) -> None:
    """Put the images of a CSV into an index, all in one commit; an interrupted run is gone on with by the same command."""
    from unifashion_pl.commands import indexing

    indexing.add(index, catalogue, replace, work, model)


def remove(index: Path, *ids: Annotated[str, {"metavar": "ID"}], model: NoModel) -> None:
    """Take images out of an index. No model is loaded for that."""
    store.require(index)
    left = store.take_out(index, list(dict.fromkeys(ids)))
    print(f"{len(set(ids))} removed, {left} images in {index}")


def check(index: Path) -> None:
    """Compare everything that an index has with what was written; say what it holds."""
    found = store.check(index)
    kept = found.settings
    pooled = f", {kept.pool} tokens an image" if kept.pool else ""
    looks = ", appearance" if kept.appearance is not None else ""
    texts, files = int((found.rows.live().captioned >= 0).sum()), len(found.segments)
    print(
        f"whole: {len(found.rows)} images ({texts} with a text that counts) in {files} {'file' if files == 1 else 'files'}, "
        f"{kept.storage}{pooled}{looks}, queries: {kept.query_set}, model {kept.model}"
    )
    for folder, what in ((store.BUILDING, "a build"), (store.ADDING, "an addition")):
        if store.is_new(index / folder):
            there = len(store.read(index / folder, staged=True).rows)
            print(f"not finished: {there:,} images of {what} are embedded, and the same command goes on")
    for name, (_, kind) in found.rows.columns().items():
        print(f"{name}\t{kind}")


def export(index: Path, *, out: Annotated[Path, FILE, "a .parquet file"]) -> None:
    """Rows and vectors of an index as one Parquet file, for pandas and others. No model is loaded."""
    from unifashion_pl.gallery.parquet import write_parquet

    print(f"{write_parquet(store.read(index), out):,} images -> {out}")


URL = Annotated[str, "of a Qdrant server, e.g. http://localhost:6333; its key is read from QDRANT_API_KEY"]


def push(
    index: Path,
    *,
    url: URL,
    collection: Annotated[str, {"metavar": "NAME"}],
    shards: Annotated[int | None, {"metavar": "N", "help": "of a new collection, over the nodes of a cluster"}] = None,
    anew: Annotated[bool, "replace all that another index has put into the collection"] = False,
) -> None:
    """Put an index on a Qdrant server, or what has changed since; resumable, counted and compared. No model is loaded."""
    from unifashion_pl.gallery import qdrant

    number = None if shards is None else count(shards, "shards")
    done = qdrant.push(store.read(index), qdrant.Collection(qdrant.connect(url), collection, url), number, anew)
    print(
        f"{done.new:,} images sent, {done.changed:,} sent anew, {done.removed:,} removed; {done.total:,} in {collection} at {url}, "
        f"{done.compared} of them read back and compared"
    )


def _encoder(model: SearchModel) -> QueryEncoder:
    """The model is loaded when something else than texts is asked; an export answers all by itself."""
    if model.model is not None and is_export(model.model):
        return QueryEncoder(model.load, exported=ExportedModel(model.model))
    return QueryEncoder(model.load, TextEncoder.of(model.model or "tiny"))


@dataclass(kw_only=True)
class Engine:
    """Where the index lies."""

    engine: Annotated[Literal["process", "qdrant"], "qdrant: ask a server's --collection instead of INDEX"] = "process"
    url: Annotated[str | None, "of the server"] = None
    collection: Annotated[str | None, {"metavar": "NAME", "help": "that `index push` has filled"}] = None

    def opened(self, index: Path | None, model: SearchModel) -> Asking:
        """The index, ready to be asked.

        Raises:
            ValueError: options that do not go together.
        """
        if self.engine == "process":
            if index is None or self.url is not None or self.collection is not None:
                raise ValueError(
                    "name the folder of an INDEX, or a server's index by --engine qdrant --url URL --collection NAME"
                )
            encoder = _encoder(model)
            return Asking(encoder, read_for(index, encoder))
        if self.url is None or self.collection is None:
            raise ValueError("--engine qdrant needs --url URL and --collection NAME")
        from unifashion_pl.gallery import qdrant
        from unifashion_pl.gallery.qdrant_search import QdrantGallery

        return QdrantGallery(_encoder(model), qdrant.Collection(qdrant.connect(self.url), self.collection, self.url))


@dataclass(kw_only=True)
class Wishes:
    """What is asked for, and what may be found."""

    text: Annotated[str | None, "what is looked for; with --image: what is to be changed"] = None
    image: Annotated[Path | None, "an example"] = None
    like: Annotated[list[Path] | None, {"help": "a further example; may be repeated", "metavar": "IMAGE"}] = None
    unlike: Annotated[
        list[Path] | None,
        {"help": "an example that is not wanted; half its score is taken off; may be repeated", "metavar": "IMAGE"},
    ] = None
    where: Annotated[str | None, {"help": "a filter, e.g. \"price < 50 and category == 'dress'\"", "metavar": "FILTER"}] = None
    exclude: Annotated[list[str] | None, {"help": "leave this image out; may be repeated", "metavar": "ID"}] = None
    group: Annotated[str | None, {"help": "one hit for each value of it, the best, e.g. product", "metavar": "COLUMN"}] = None
    words: Annotated[
        float,
        {
            "help": "e.g. 1: a search for the words themselves in texts and columns is added with this weight",
            "metavar": "WEIGHT",
        },
    ] = 0.0
    appearance: Annotated[
        float | None,
        {
            "help": "how much it counts that a picture looks the very same as --image, --like; default: as was chosen for the model, 0 beside --text",
            "metavar": "WEIGHT",
        },
    ] = None
    rerank: Annotated[int, {"help": "the best N are ranked by the matching head", "metavar": "N"}] = 0
    k: Annotated[int, {"flag": "-k", "help": "how many hits; default 10"}] = 10

    def told(self) -> dict[str, Any]:
        """What was asked, without what was not, as plain values."""
        given = {name: value for name, value in vars(self).items() if value not in (None, 0)}
        return {
            name: str(value) if isinstance(value, Path) else [str(one) for one in value] if isinstance(value, list) else value
            for name, value in given.items()
        }

    def asked(self) -> dict[str, Any]:
        """``text``, ``image`` and :class:`~unifashion_pl.gallery.asking.SearchOptions`."""
        return {**vars(self), "exclude": self.exclude or ()}

    def judged(self, gallery: Asking, hits: Hits) -> Verdict | None:
        """What the index's threshold says of the hits."""
        how = {name: value for name, value in self.asked().items() if name not in ("text", "image")}
        return verdict(gallery, hits, SearchOptions(**how), self.text, self.image)


def search(
    index: Annotated[Path | None, {"nargs": "?", "help": "its folder; not with --engine qdrant"}],
    *,
    wishes: Wishes,
    engine: Engine,
    facets: Annotated[
        list[str] | None,
        {"help": "count a column's values over all that --where lets pass; may be repeated", "metavar": "COLUMN"},
    ] = None,
    json: Annotated[bool, "one JSON object: query, hits, facets"] = False,
    html: Annotated[Path | None, FILE, "a page with pictures that needs nothing beside it"] = None,
    trec: Annotated[Path | None, FILE, "the hits as a run for trec_eval, pytrec_eval, ranx"] = None,
    queries: Annotated[
        Path | None,
        "for --trec: many queries, a CSV with the columns text and image, one or both, and perhaps id and relevant (ids of right answers "
        "with | between, written beside the run as .qrels); or a .txt, one text a line",
    ] = None,
    model: SearchModel,
) -> None:
    """By text, image, or image + modifying text: rank, score, id, and the parts that the score is made of."""
    gallery = engine.opened(index, model)
    if queries is not None:
        if trec is None or json or html or facets or wishes.text or wishes.image:
            raise ValueError(
                "--queries goes with --trec FILE, which takes their hits, and not with --text, --image, --facets, --json, --html"
            )
        return _write_run(queries, trec, gallery, wishes)
    hits = gallery.search(**wishes.asked())
    tell_of_hits(model.model, [hit.image for hit in hits])
    said = wishes.judged(gallery, hits)
    counted = {column: gallery.facets(column, wishes.where) for column in facets or ()}
    if html is not None:
        _write_page(html, gallery, wishes, hits, counted, said)
    if trec is not None:
        write_trec(trec, [listing("1", hits)])
    _print(wishes, hits, counted, said, json)


def calibrate(
    index: Path,
    *,
    queries: Annotated[
        Path | None,
        "a CSV of judged texts, with the columns text and relevant (ids of all right answers, with | between)",
    ] = None,
    foreign: Annotated[Path | None, "texts of which the index has nothing, a .txt, one a line, or a CSV"] = None,
    reject: Annotated[float, {"metavar": "SHARE", "help": "of answerable texts that may be taken for unanswerable"}] = 0.05,
    off: Annotated[bool, "forget the threshold"] = False,
    model: SearchModel,
) -> None:
    """Choose and keep the score below which a search by text says that nothing matches, with its rates of errors."""
    if (queries is None) != off:
        raise ValueError("give --queries FILE to choose a threshold, or --off to forget it")
    encoder = _encoder(model)
    with exclusive(store.require(index)):
        stored = read_for(index, encoder)
        found = None
        if queries is not None:
            found = calibrated(Asking(encoder, stored), read_queries(queries), read_queries(foreign) if foreign else (), reject)
        store.save(index, replace(stored, settings=replace(stored.settings, threshold=found)))
    print(f"{index}: " + ("no threshold" if found is None else f"threshold {found.text}"))


def _print(wishes: Wishes, hits: Hits, facets: dict[str, dict[Any, int]], said: Verdict | None, as_json: bool) -> None:
    if said is not None and not (as_json or said.matches):
        print(said.text, file=sys.stderr)
    if as_json:
        counted = {column: [{"value": value, "count": n} for value, n in counts.items()] for column, counts in facets.items()}
        told = {"query": wishes.told(), "hits": [hit.as_json() for hit in hits], **({"facets": counted} if facets else {})}
        told |= {} if said is None else {"match": said.as_json()}
        print(json_.dumps(told, ensure_ascii=False, indent=1))
        return
    if not hits:
        print("no hits: --where and --exclude leave no image", file=sys.stderr)
    for rank, hit in enumerate(hits, 1):
        print(f"{rank}\t{hit.score:.4f}\t{hit.id}\t{hit.explanation}")
    for column, counts in facets.items():
        print(f"{column}: " + ", ".join(f"{value} {n}" for value, n in counts.items()))


def _write_run(queries: Path, place: Path, gallery: Asking, wishes: Wishes) -> None:
    """Ask many queries and write their run, and right answers where the file has them."""
    how = {name: value for name, value in wishes.asked().items() if name not in ("text", "image")}
    for written in write_trec(place, ask(gallery, read_queries(queries), **how)):
        print(written)


def _write_page(
    place: Path, gallery: Asking, wishes: Wishes, hits: Hits, facets: dict[str, dict[Any, int]], said: Verdict | None
) -> None:
    from unifashion_pl.gallery.page import page
    from unifashion_pl.inference.images import open_image

    pictures, wrong = hits.pictures()
    for message in wrong:
        print(f"note: {message}", file=sys.stderr)
    heat = {}
    if wishes.text is not None and gallery.encoder.explains:
        there = [hit for hit in hits if hit.id in pictures and hit.token is not None]
        heat = gallery.heat_maps(there, [pictures[hit.id] for hit in there], wishes.text, wishes.image)
    asked_with = None if wishes.image is None else open_image(wishes.image)
    write_text(place, page(wishes.told(), hits, pictures, facets, heat, asked_with, said))
