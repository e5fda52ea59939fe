"""An index on a Qdrant server: a collection that is filled from an index's folder, may be filled again at any time, and is compared with it.

A point is an image: its tokens as multi-vectors named as the index's sets, its caption's vector, and as payload all that is known of it. Its id
follows from the image's. The collection's metadata say whose vectors they are. M images, Q tokens, E width.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any
from uuid import UUID, uuid5

import numpy as np
from tqdm import tqdm

from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.rows import OWN
from unifashion_pl.gallery.scan import Corpus, Positions
from unifashion_pl.gallery.segments import APPEARANCE, CAPTIONS, SINGLE, Floats
from unifashion_pl.gallery.stored import Stored
from unifashion_pl.gallery.where import NUMBER, TEXT, Column
from unifashion_pl.reading import FormatError, converted

try:
    from qdrant_client import QdrantClient as QdrantClient
    from qdrant_client import models as models
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
except ImportError:  # the extra is not installed: `connect` says so before anything is asked
    models = None  # type: ignore[assignment]

FORMAT, METADATA = 1, "unifashion-pl"
#: Of the ids of points.
NAMESPACE = UUID("a1c1f3c6-6d0f-5c39-9a4e-2f1a7d2b7e11")
#: Images that are sent at once, ids that are read at once, images whose vectors are compared afterwards.
BATCH, PAGE, SAMPLES = 64, 4096, 32
#: Seconds that an answer may take.
PATIENCE = 300
#: Where the server's key is read from, which is nothing for a command line.
KEY = "QDRANT_API_KEY"
#: Names that stand in a path of a payload as they are.
PLAIN = re.compile(r"(?!column_\d+$)[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class CollectionFacts:
    """What a collection holds.

    Attributes:
        model: fingerprint of the model that made the vectors. query_set, pool, appearance: as of the index. looks: width of appearance vectors.
        sets: names of the vectors that its points have; none before its first push has ended. tokens, width: Q and E.
        columns: name -> its key in payloads, and ``number`` or ``text``.
    """

    format: int
    model: str
    query_set: str
    sets: list[str]
    tokens: int
    width: int
    columns: dict[str, tuple[str, str]]
    pool: int | None = None  # a server may drop what is null
    appearance: str | None = None
    looks: int | None = None

    def known(self) -> dict[str, Column]:
        """All columns that a filter may name, and where payloads have them."""
        own = {name: Column(name, column.kind) for name, column in OWN.items()}
        return own | {name: Column(f"columns.{key}", kind) for name, (key, kind) in self.columns.items()}

    def beside(self, other: CollectionFacts) -> str:
        """How another index differs so that its vectors do not belong here; "" = they do."""
        names = ("model", "query_set", "pool", "tokens", "width", "appearance", "looks")
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return ", ".join(f"{name} {one} against {two}" for name, one, two in pairs if one != two)


def connect(url: str) -> QdrantClient:
    """A client of a server; its key, if it has one, is read from the environment's ``QDRANT_API_KEY``.

    Raises:
        ModuleNotFoundError: qdrant-client is not installed.
        ValueError: no URL.
    """
    if models is None:
        raise ModuleNotFoundError(
            "an index on a Qdrant server needs qdrant-client, which is not installed: pip install 'unifashion-pl[qdrant]'"
        )
    if not re.match(r"https?://[^/]", url):
        raise ValueError(f"the server is {url!r}, expected e.g. http://localhost:6333")
    return QdrantClient(url=url, api_key=os.environ.get(KEY), timeout=PATIENCE, check_compatibility=False)


class Collection:
    """A collection by its name; the server need not have it yet.

    Args:
        client: of a server, or of qdrant-client's local mode.
        where: the server's URL, for messages.
    """

    def __init__(self, client: QdrantClient, name: str, where: str = "") -> None:
        self.client, self.name, self.where = client, name, where or "this Qdrant"

    @contextmanager
    def asking(self) -> Iterator[QdrantClient]:
        """The client; what the server refuses becomes a sentence.

        Raises:
            ConnectionError: nobody answers. RuntimeError: the server refuses.
        """
        try:
            yield self.client
        except ResponseHandlingException as error:
            raise ConnectionError(
                f"no Qdrant server answers at {self.where} ({error}): start one, or name it by --url"
            ) from error
        except UnexpectedResponse as error:
            said = error.content.decode(errors="replace")[:500]
            cure = f"; its key is read from {KEY}" if error.status_code in (401, 403) else ""
            raise RuntimeError(f"the Qdrant server at {self.where} refused ({error.status_code}): {said}{cure}") from error

    def exists(self) -> bool:
        """Whether the server has it."""
        with self.asking() as client:
            return bool(client.collection_exists(self.name))

    def facts(self) -> CollectionFacts:
        """What it holds.

        Raises:
            FileNotFoundError: the server has no such collection.
            FormatError: it is none of ours, or of a later version.
        """
        if not self.exists():
            with self.asking() as client:
                there = sorted(one.name for one in client.get_collections().collections)
            raise FileNotFoundError(
                f"{self.where} has no collection {self.name!r} (it has: {', '.join(there) or 'none'}): "
                "`unifashion index push INDEX` makes one"
            )
        with self.asking() as client:
            told = (client.get_collection(self.name).config.metadata or {}).get(METADATA)
        if not isinstance(told, dict):
            raise FormatError(
                f"the collection {self.name!r} of {self.where} was not made by `unifashion index push`: name another one"
            )
        if told.get("format") != FORMAT:
            raise FormatError(f"the collection {self.name!r} has format {told.get('format')}, this version reads {FORMAT}")
        found: CollectionFacts = converted(told, CollectionFacts, f"the collection {self.name!r}", "an index")
        return found

    def count(self) -> int:
        """Its points."""
        with self.asking() as client:
            return int(client.count(self.name, exact=True).count)

    def scrolled(self, payload: Sequence[str], allowed: models.Filter | None = None) -> Iterator[Any]:
        """All points with some of their payload, those that a filter lets through."""
        offset: Any = None
        with self.asking() as client:
            while True:
                points, offset = client.scroll(
                    self.name, allowed, limit=PAGE, offset=offset, with_payload=[*payload], with_vectors=False
                )
                yield from points
                if offset is None:
                    return

    def digests(self) -> dict[str, str]:
        """The id of each point, and what its content was when it was sent."""
        return {str(point.id): (point.payload or {}).get("digest", "") for point in self.scrolled(["digest"])}

    def points(self, ids: Sequence[str], vectors: Sequence[str]) -> list[Any]:
        """Points with their payload and vectors, in no order."""
        out: list[Any] = []
        with self.asking() as client:
            for start in range(0, len(ids), BATCH):
                part = list(ids[start : start + BATCH])
                out += client.retrieve(self.name, part, with_payload=True, with_vectors=list(vectors))
        return out


def point_id(id: str) -> str:
    """The id of an image's point.

    >>> point_id("a") == point_id("a") != point_id("b")
    True
    """
    return str(uuid5(NAMESPACE, id))


@dataclass(frozen=True)
class Pushed:
    """What a push did: points that are new, that had another content, that are gone with their images, all there are, and how many were compared."""

    new: int
    changed: int
    removed: int
    total: int
    compared: int


def push(stored: Stored, collection: Collection, shards: int | None = None, anew: bool = False) -> Pushed:
    """Make a collection equal to an index: what is missing or differs is sent, what the index has no more is removed.

    A push that was interrupted goes on where it was. At the end the points are counted, and some are read back and compared.

    Args:
        shards: of a new collection; None = as the server likes.
        anew: replace the images of an index that has none in common with this one.

    Raises:
        ValueError: an empty index, or a collection of another model, of other vectors, or of an index with other images alone.
        ConnectionError, RuntimeError: the server does not answer, refuses, or holds something else than was sent.
    """
    source = _Source(stored)
    before = collection.digests() if collection.exists() else {}
    if before and not before.keys() & source.ids.keys() and not anew:
        raise ValueError(
            f"the collection {collection.name!r} of {collection.where} holds {len(before):,} images of which this index has none: it was "
            "filled from another one. Name another collection, or replace them all by --anew"
        )
    facts = _prepared(collection, source, shards)
    gone = sorted(set(before) - source.ids.keys())
    new = changed = 0
    with collection.asking() as client:
        for start in range(0, len(gone), PAGE):
            client.delete(collection.name, points_selector=gone[start : start + PAGE], wait=True)  # type: ignore[arg-type]
        bar = tqdm(total=len(source.ids), desc="sending", unit="image", disable=len(source.ids) < 1024, leave=False)
        for rows in source.batches():
            made = [(id, point) for id, point in source.points(rows, facts) if before.get(id) != point["payload"]["digest"]]
            if made:
                _send(client, collection.name, made)
            new += sum(id not in before for id, _ in made)
            changed += sum(id in before for id, _ in made)
            bar.update(len(rows))
        bar.close()
        client.update_collection(collection.name, metadata={METADATA: asdict(facts)})
    return Pushed(new, changed, len(gone), len(source.ids), _verified(collection, source, facts))


def _send(client: QdrantClient, name: str, made: Sequence[tuple[str, dict[str, Any]]]) -> None:
    client.upsert(name, [models.PointStruct(id=id, **point) for id, point in made], wait=True)


class _Source:
    """An index as points."""

    def __init__(self, stored: Stored) -> None:
        self.stored, self.live = stored, stored.rows.live()
        if not len(self.live):
            raise ValueError("the index is empty: there is nothing to push")
        self.corpus = Corpus(stored.segments, self.live)
        named = {name for segment in stored.segments.values() for name in segment.sets}
        looks = [APPEARANCE] if stored.settings.appearance is not None else []
        self.sets = sorted(named - {*SINGLE}) + looks + [CAPTIONS] * bool((self.live.captioned >= 0).any())
        (self.tokens, self.width), self.looks = self._shape(self.sets[0]), self._shape(APPEARANCE)[1] if looks else None
        names = stored.rows.named(self.live.keys.tolist())
        self.ids = {point_id(names[int(key)]): row for row, key in enumerate(self.live.keys)}
        self.id_of = list(self.ids)

    def _shape(self, name: str) -> tuple[int, int]:
        found = self.corpus.floats(name, np.arange(1))
        assert found is not None
        return found.shape[1], found.shape[2]

    def facts(self, before: CollectionFacts | None) -> CollectionFacts:
        """Of the collection; keys of columns that it has already stay."""
        kept, known = self.stored.settings, before.columns if before is not None else {}
        columns = {
            name: known.get(name, (key_of(name, number), kind)) for name, (number, kind) in self.stored.rows.columns().items()
        }
        shape = self.tokens, self.width, columns, kept.pool, kept.appearance, self.looks
        return CollectionFacts(FORMAT, kept.model, kept.query_set, self.sets, *shape)

    def batches(self) -> Iterator[Positions]:
        """Rows, :data:`BATCH` at once."""
        for start in range(0, len(self.live), BATCH):
            yield np.arange(start, min(start + BATCH, len(self.live)))

    def points(self, rows: Positions, facts: CollectionFacts) -> Iterator[tuple[str, dict[str, Any]]]:
        """Ids of points and their vectors and payload."""
        items = self.stored.rows.items(self.live.keys[rows].tolist())
        vectors: dict[str, Floats] = {}
        for name in facts.sets:
            found = self.corpus.floats(name, rows)
            if found is not None:
                vectors[name] = found
        for i, row in enumerate(rows.tolist()):
            captioned = self.live.captioned[row] >= 0
            own = {name: found[i] for name, found in vectors.items() if name != CAPTIONS or captioned}
            payload = _payload(items[int(self.live.keys[row])], facts)
            digest = hashlib.blake2b(json.dumps(payload, sort_keys=True).encode(), digest_size=12)
            for name in sorted(own):
                digest.update(name.encode() + own[name].tobytes())
            vector = {name: (found[0] if name in SINGLE else found).tolist() for name, found in own.items()}
            yield self.id_of[row], {"vector": vector, "payload": {**payload, "digest": digest.hexdigest()}}


def key_of(name: str, number: int) -> str:
    """A column's key in payloads: its name, or where that would have to be quoted in paths, its number.

    >>> key_of("price", 0), key_of("list price", 1), key_of("column_7", 2)
    ('price', 'column_1', 'column_2')
    """
    return name if PLAIN.fullmatch(name) else f"column_{number}"


def _payload(item: IndexItem, facts: CollectionFacts) -> dict[str, Any]:
    columns = {facts.columns[name][0]: value for name, value in item.columns.items() if value is not None}
    found = {"id": item.id, "caption": item.caption, "product": item.product or item.id, "image": item.image}
    return {**{name: value for name, value in found.items() if value is not None}, "columns": columns}


def item_of(payload: Mapping[str, Any], facts: CollectionFacts) -> IndexItem:
    """An image's row from its point's payload.

    Raises:
        FormatError: a payload that `unifashion index push` did not write.
    """
    found: IndexItem = converted(dict(payload), IndexItem, "a point of the collection", "an image of an index")
    names = {key: name for name, (key, _) in facts.columns.items()}
    return replace(found, columns={names[key]: value for key, value in found.columns.items() if key in names})


def _prepared(collection: Collection, source: _Source, shards: int | None) -> CollectionFacts:
    """The collection, made if it is not there, with an index of its payload for each column -> what it will hold."""
    before = collection.facts() if collection.exists() else None
    facts = source.facts(before)
    if before is not None and (differs := before.beside(facts)):
        raise ValueError(
            f"the collection {collection.name!r} of {collection.where} holds other vectors than this index ({differs}): "
            "name another collection, or delete that one"
        )
    if before is not None and shards is not None:
        raise ValueError(f"the collection {collection.name!r} is there already, and shards are chosen for a new one")
    with collection.asking() as client:
        if before is None:
            kind = models.Datatype.FLOAT16 if source.stored.settings.storage == "fp16" else models.Datatype.FLOAT32
            many = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
            # no graphs: over multi-vectors they take hours, and searches here are exact
            common: dict[str, Any] = {"size": source.width, "distance": models.Distance.DOT, "datatype": kind}
            common["hnsw_config"] = models.HnswConfigDiff(m=0)
            sets = {"both": ("reference", "target")}.get(facts.query_set, (facts.query_set,))
            vectors = {name: models.VectorParams(**common, multivector_config=many) for name in sets}
            vectors[CAPTIONS] = models.VectorParams(**common)
            if facts.looks is not None:
                vectors[APPEARANCE] = models.VectorParams(**{**common, "size": facts.looks})
            made = replace(facts, sets=[])  # until all are there
            client.create_collection(
                collection.name, vectors_config=vectors, shard_number=shards, metadata={METADATA: asdict(made)}
            )
        schema = {TEXT: models.PayloadSchemaType.KEYWORD, NUMBER: models.PayloadSchemaType.FLOAT}
        for name, column in facts.known().items():
            if name != "caption" or name in facts.columns:
                client.create_payload_index(collection.name, column.place, field_schema=schema[column.kind], wait=True)
    return facts


def _verified(collection: Collection, source: _Source, facts: CollectionFacts) -> int:
    """Count the points, and compare some with the index -> how many were compared.

    Raises:
        RuntimeError: another number of them, or another content.
    """
    if (there := collection.count()) != len(source.ids):
        raise RuntimeError(
            f"the collection {collection.name!r} has {there:,} points, the index {len(source.ids):,} images: push again; "
            "another process may be writing there"
        )
    chosen = np.array(sorted(islice(sorted(source.ids.values(), key=lambda row: source.id_of[row]), SAMPLES)), np.int64)
    sent = dict(source.points(chosen, facts))
    found = {str(point.id): point for point in collection.points(list(sent), facts.sets)}
    for id, point in sent.items():
        there_vectors = found[id].vector if id in found else {}
        same = id in found and found[id].payload == point["payload"] and there_vectors.keys() == point["vector"].keys()
        if not same or not all(np.allclose(there_vectors[name], one, atol=1e-3) for name, one in point["vector"].items()):
            raise RuntimeError(
                f"the collection {collection.name!r} holds {point['payload']['id']!r} otherwise than it was sent: somebody else writes "
                "there; push under another name"
            )
    return len(sent)
