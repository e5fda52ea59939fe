"""Fashion-IQ: annotations and images by id -> training triplets, evaluation queries and galleries.

The test split has no targets in public, so its numbers are reported on validation, as in the literature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unifashion_pl.datamodules.base import FashionDataModule
from unifashion_pl.datamodules.fashioniq_raw import (
    CATEGORIES,
    PUBLISHED_ENTRIES,
    PUBLISHED_GALLERY,
    ImageFolder,
    RawFashionIQ,
)

from unifashion_pl.arguments import choice
from unifashion_pl.data.assemble import GalleryAssembler, QueryAssembler, TripletAssembler
from unifashion_pl.data.captions import read_captions, read_library
from unifashion_pl.data.meta import QueryMeta, meta_of
from unifashion_pl.data.plan import Input, Item, Kind, Plan, in_order
from unifashion_pl.data.reader import DamagedSample, SampleSource
from unifashion_pl.data.recipes import FileRecipe
from unifashion_pl.data.stream import EvalLoader, TrainLoader
from unifashion_pl.data.texts import Joiner

SPLITS = ("train", "val")
TRIPLET_SHARD, SHARD_SIZE = 512, 1024
LICENCE = "annotations: CDLA, variant not named; the pictures are a shop's"
PUBLISHED_SAMPLES = {
    "triplets-train": sum(PUBLISHED_ENTRIES["train"].values()),
    "queries-val": sum(PUBLISHED_ENTRIES["val"].values()),
    "gallery-val": sum(PUBLISHED_GALLERY.values()),
}


class GallerySpec(NamedTuple):
    """An image; ``in_union``: whether any entry of the split names it."""

    id: str
    category: str
    in_union: bool


@dataclass
class TripletRecipe(FileRecipe):
    """Each :class:`~unifashion_pl.datamodules.fashioniq_raw.CaptionEntry` -> ``reference``, ``target`` (where the split has one) and ``meta.json``."""

    images: ImageFolder

    def inputs(self, item: Item) -> list[Input]:
        """Reference first, then target."""
        named = {"reference": item.spec.reference, "target": item.spec.target}
        return [Input(id, role, self.images.path(id, item.group)) for role, id in named.items() if id]

    def meta(self, item: Item) -> dict[str, Any]:
        return {name: value for name, value in item.spec._asdict().items() if name != "target" or value}


@dataclass
class GalleryRecipe(FileRecipe):
    """Ids of a split -> ``image`` and ``meta.json``."""

    images: ImageFolder

    def inputs(self, item: Item) -> list[Input]:
        """The image."""
        return [Input(item.spec.id, "image", self.images.path(item.spec.id, item.group))]

    def meta(self, item: Item) -> dict[str, Any]:
        return dict(item.spec._asdict())


def plan_of(
    raw: RawFashionIQ, split: str, kind: Kind, items: Sequence[Item], recipe: FileRecipe, fields: tuple[str, ...], **more: Any
) -> Plan:
    """A plan of Fashion-IQ's images and annotations, training in a fixed permutation; ``more`` goes before what they have in common."""
    common: dict[str, Any] = {"dataset": "fashioniq", "root": raw.root, "sources": raw.files(split), "shard_size": SHARD_SIZE}
    items = in_order(items, split, "fashioniq")
    return Plan(split=split, kind=kind, items=items, recipe=recipe, fields=fields, **{**common, **more})


def triplet_plan(raw: RawFashionIQ, split: str) -> Plan:
    """Training triplets (a fixed permutation) or evaluation queries (source order) of all categories.

    The subset ``val_overlap`` names training triplets one of whose images stands in a validation split, ``train_overlap`` evaluation
    queries whose target stands in a training split.
    """
    entries = [entry for category in CATEGORIES for entry in raw.entries(category, split)]
    items = [Item(f"{e.category}-{split}-{e.position:05d}", e.category, e) for e in entries]
    more: dict[str, Any] = {"shard_size": TRIPLET_SHARD, "notes": raw.notes(split)}
    fields: tuple[str, ...] = ("reference", "target", "meta")
    recipe = TripletRecipe(raw.images)
    if split != "train":
        fields = fields if any(e.target for e in entries) else ("reference", "meta")
        trained = raw.category_of("train").keys()
        overlap = {"train_overlap": [item.key for item in items if item.spec.target in trained]}
        return plan_of(raw, split, "queries", items, recipe, fields, subsets=overlap, **more)
    held_out = raw.category_of("val").keys()
    overlap = {"val_overlap": [item.key for item in items if held_out & {item.spec.reference, item.spec.target}]}
    return plan_of(raw, split, "triplets", items, recipe, fields, subsets=overlap, **more)


def gallery_plan(raw: RawFashionIQ, split: str) -> Plan:
    """All ids of all categories' splits; an id that two categories list is there twice."""
    items = []
    for category in CATEGORIES:
        union = {id for entry in raw.entries(category, split) for id in (entry.reference, entry.target)}
        items += [Item(f"{category}-{id}", category, GallerySpec(id, category, id in union)) for id in raw.ids(category, split)]
    return plan_of(raw, split, "gallery", items, GalleryRecipe(raw.images), ("image", "meta"), notes=raw.notes(split))


def plans(root: Path) -> Iterable[Plan]:
    """Training triplets, validation queries and validation gallery."""
    raw = RawFashionIQ(Path(root))
    return [triplet_plan(raw, "train"), triplet_plan(raw, "val"), gallery_plan(raw, "val")]


def findings(root: Path, made: Sequence[Plan]) -> list[str]:
    """Layout variant, files that fit no id, triplets that touch a validation image, counts that differ from the published ones."""
    raw = RawFashionIQ(Path(root))
    overlap = next((plan.subsets["val_overlap"] for plan in made if "val_overlap" in plan.subsets), [])
    return [*raw.findings(), f"{len(overlap):,} training triplets touch an image that also stands in a validation split"]


def variant(root: Path) -> str:
    """Which copy this is."""
    return RawFashionIQ(Path(root)).variant()


def asked_again(gallery: SampleSource, queries: SampleSource) -> frozenset[str]:
    """Ids of gallery images that are references too, or stand in several categories: evaluation keeps what the vision tower made of them."""
    times = Counter(key.partition("-")[2] for key in gallery.keys)
    again = {id for id, number in times.items() if number > 1}
    for number in range(len(queries.keys)):
        with suppress(DamagedSample):  # it will be told when it is evaluated
            again.add(meta_of(queries.read(number), QueryMeta)["reference"])
    return frozenset(again)


class FashionIQDataModule(FashionDataModule):
    """Fashion-IQ for composed retrieval: triplets to train on; galleries and queries of the validation split to evaluate on.

    Args:
        val_overlap: ``exclude`` leaves out training triplets that touch a validation image; ``keep`` is what the literature does.
        captions: caption library (JSON Lines) of training targets, or None.
        gallery_captions: query-blind caption library of the validation gallery with the full provenance, or None.
        allow_unsafe_captions: accept captions that may have seen a query; their results are then labelled leaked or suspicious.
        joiner: ``and`` or ``comma``; part of a protocol's name.
        **common: see :class:`~unifashion_pl.datamodules.base.FashionDataModule`.
    """

    stream = "triplets"
    plans = staticmethod(plans)
    train_folder, eval_folders = "triplets-train", ("queries-val", "gallery-val")

    def __init__(
        self,
        root: str | Path | None = None,
        shards: str | Path | None = None,
        *,
        val_overlap: Literal["exclude", "keep"] = "exclude",
        captions: str | Path | None = None,
        gallery_captions: str | Path | None = None,
        allow_unsafe_captions: bool = False,
        joiner: Joiner = "and",
        **common: Any,
    ) -> None:
        super().__init__(root, shards, **common)
        self.val_overlap = choice(val_overlap, "val_overlap", ("exclude", "keep"))
        self.joiner, self.captions, self.gallery_captions = joiner, captions, gallery_captions
        self.allow_unsafe_captions = allow_unsafe_captions

    def train_loader(self) -> TrainLoader[Any]:
        captions = {} if self.captions is None else read_captions(self.captions, allow_unsafe=self.allow_unsafe_captions)
        source = self.source("triplets-train")
        exclude = source.subsets.get("val_overlap", []) if self.val_overlap == "exclude" else []
        return self.training(source, TripletAssembler(self.encoder, self.pixels, captions, self.joiner), exclude)

    def eval_loaders(self, stage: str) -> list[EvalLoader[Any]]:
        """Gallery first, then queries."""
        gallery = self.source("gallery-val")
        library: dict[str, dict[str, Any]] = {}
        if self.gallery_captions is not None:
            ids = {key.partition("-")[2] for key in gallery.keys}
            library = read_library(self.gallery_captions, expected=ids, allow_unsafe=self.allow_unsafe_captions)
        queries = self.source("queries-val")
        again = None if self.features else asked_again(gallery, queries)
        shelves = GalleryAssembler(self.encoder, library, self.allow_unsafe_captions, gallery.planned, again)
        known = queries.subsets.get("train_overlap")  # older shards do not say
        overlap = None if known is None else frozenset(known)
        asked = QueryAssembler(self.encoder, self.pixels, self.joiner, queries.planned, overlap)
        return [self.evaluation(gallery, shelves, stage), self.evaluation(queries, asked, stage)]
