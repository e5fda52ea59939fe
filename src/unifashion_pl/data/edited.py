"""Composed triplets, queries and galleries out of the samples of a catalogue of pairs, which are read as they are: pixels, or cached features.

A training sample is a reference; which edit starts from it is drawn anew in every epoch, from (seed, epoch, key) alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from unifashion_pl.data.assemble import PairAssembler, TripletAssembler
from unifashion_pl.data.edits import Edit, Edits
from unifashion_pl.data.plan import Kind, compact_json
from unifashion_pl.data.reader import RawSample, SampleSource
from unifashion_pl.data.samples import TripletBatch
from unifashion_pl.data.texts import EVALUATION, Draw


def in_role(raw: RawSample, role: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The picture of a pair as another field: what is stored of it, and what was made of it before."""
    fields = {f"{role}.{name.partition('.')[2]}": data for name, data in raw.fields.items() if name.startswith("image.")}
    features = {"/".join((*name.split("/")[:-1], role)): value for name, value in raw.features.items()}
    return fields, features


class EditSource(SampleSource):
    """References of edits: samples of pairs, with the edits that lead from them; picklable.

    Args:
        source: of pairs, whose samples are the edits' items in their order.
        edits: among them.
        name: of the dataset.
    """

    kind: Kind = "triplets"

    def __init__(self, source: SampleSource, edits: Edits, name: str) -> None:
        if (keys := [item.key for item in edits.items]) != list(source.keys):
            raise ValueError(f"{source.dataset} has {len(source.keys):,} samples, and the edits are among {len(keys):,} others")
        self.source, self.edits = source, edits
        self.dataset, self.split = f"{name}/{source.split}", source.split
        self.fields, self.keys, self.blocks, self.subsets = source.fields, source.keys, source.blocks, {}
        self.features, self.latents = source.features, source.latents
        self.hash = hashlib.sha256(source.hash.encode() + edits.identity).hexdigest()
        self._numbers = {key: number for number, key in enumerate(self.keys)}

    @property
    def lone(self) -> list[str]:
        """Keys of the samples from which no edit starts."""
        return [key for key, usable in zip(self.keys, self.edits.usable) if not usable]

    def read(self, number: int) -> RawSample:
        return self.source.read(number)

    def drawn(self, key: str, draw: Draw) -> tuple[Edit, str]:
        """The edit of a sample, and its text."""
        rng = draw.rng(f"edit/{key}")
        edit = self.edits.draw(self._numbers[key], rng)
        return edit, self.edits.text(edit, rng)


@dataclass
class EditAssembler:
    """Samples of an :class:`EditSource` -> :class:`TripletBatch`, with ``target_ids`` that are equal for all right answers of an edit.

    Args:
        source: where targets are.
        triplets: makes the batch.
        pairs: whose rule says the caption of a target.
    """

    source: EditSource
    triplets: TripletAssembler
    pairs: PairAssembler

    needs: ClassVar = frozenset({"image", "meta"})

    def sample(self, raw: RawSample, draw: Draw, dataset: str) -> TripletBatch:
        edit, text = self.source.drawn(raw.key, draw)
        target = self.source.read(edit.target)
        caption = self.pairs.describe(target, EVALUATION).caption  # in the usual style
        category = self.source.edits.items[edit.reference].category
        said = {"target": edit.answer, "captions": [text], "category": category, "caption": caption}
        shown, wanted = in_role(raw, "reference"), in_role(target, "target")
        fields = {**shown[0], **wanted[0], "meta.json": compact_json(said)}
        return self.triplets.sample(RawSample(raw.key, fields, {**shown[1], **wanted[1]}), draw, dataset)


class RecastSource(SampleSource):
    """Samples of pairs as those of another kind.

    Args:
        source: of pairs.
        kind: ``gallery`` or ``queries``.
        role: the picture's field there.
        picks: (key, number of the sample, ``meta.json``) of each.
        name: of the dataset.
    """

    def __init__(
        self, source: SampleSource, kind: Kind, role: str, picks: Sequence[tuple[str, int, Mapping[str, Any]]], name: str
    ) -> None:
        self.source, self.kind, self.role, self.picks = source, kind, role, list(picks)
        self.dataset, self.split = f"{name}/{source.split}", source.split
        self.fields, self.keys, self.blocks, self.subsets = [role, "meta"], [key for key, *_ in picks], [len(picks)], {}
        self.features, self.latents = source.features, source.latents
        said = [[key, number, dict(meta)] for key, number, meta in picks]
        self.hash = hashlib.sha256(source.hash.encode() + compact_json([kind, role, said])).hexdigest()
        self.planned = {c: [m["category"] for *_, m in picks].count(c) for c in {m["category"] for *_, m in picks}}

    def read(self, number: int) -> RawSample:
        key, place, meta = self.picks[number]
        fields, features = in_role(self.source.read(place), self.role)
        return RawSample(key, {**fields, "meta.json": compact_json(dict(meta))}, features)


def shelves(source: SampleSource, edits: Edits, name: str) -> RecastSource:
    """All pictures, once for each attribute that queries ask about: queries of an attribute are searched among all of them."""
    picks: list[tuple[str, int, Mapping[str, Any]]] = [
        (f"{place}-{item.key}", number, {"id": item.id, "category": attribute, "in_union": True})
        for place, attribute in enumerate(edits.names)
        for number, item in enumerate(edits.items)
    ]
    return RecastSource(source, "gallery", "image", picks, name)


def questions(source: SampleSource, edits: Edits, name: str, seed: int) -> RecastSource:
    """A query of each picture and each attribute that may differ in it; its category is the attribute, its answers all that are right."""
    picks: list[tuple[str, int, Mapping[str, Any]]] = []
    ids = [item.id for item in edits.items]
    for edit in edits.queries(seed):
        (attribute,) = edit.names
        key = edits.items[edit.reference].key
        said = {
            "captions": [edits.text(edit)],
            "category": attribute,
            "reference": ids[edit.reference],
            "target": ids[edit.target],
        }
        right = [ids[number] for number in edit.right]
        picks.append((f"{edits.names.index(attribute)}-{key}", edit.reference, {**said, "right": right}))
    return RecastSource(source, "queries", "reference", picks, name)
