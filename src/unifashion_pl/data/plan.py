"""What a split will consist of, decided from names alone before any pixel is read."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from unifashion_pl.data.decode import BadInput

Kind = Literal["pairs", "triplets", "gallery", "queries", "tryon"]
TRAIN = "train"
#: Datasets that there are plans of: modules of :mod:`unifashion_pl.datamodules`.
DATASETS = ("fashiongen", "fashion200k", "fashioniq", "fashioniq_cap", "vitonhd", "mgd", "catalogue")


@dataclass(frozen=True)
class Item:
    """A planned sample.

    Attributes:
        key: tar key, ``[A-Za-z0-9_-]+``, unique in the plan.
        group: what losses are counted by, e.g. the category.
        spec: what the recipe needs to make it: a named tuple of names and texts, plain JSON values.
    """

    key: str
    group: str
    spec: Any


@dataclass(frozen=True)
class Input:
    """An image file that a sample needs: its id in the dataset, its role in the sample and where it is."""

    id: str
    role: str
    path: Path


class BadSample(BadInput):
    """A sample that cannot be made: one of its inputs is unusable.

    Attributes:
        id, role, reason: of the input.
    """

    def __init__(self, id: str, role: str, reason: str) -> None:
        super().__init__(f"{role} {id}: {reason}")
        self.id, self.role, self.reason = id, role, reason


@dataclass(frozen=True)
class Made:
    """A sample as it goes into a shard: fields by name (``image.jpg``, ``meta.json``), and a hash of its pixels for finding equals."""

    fields: dict[str, bytes]
    id: str
    pixels: str | None = None


class Recipe(Protocol):
    """Raw dataset -> samples; must be picklable and may keep files open per process only."""

    def make(self, items: Sequence[Item]) -> Iterator[tuple[Item, Made | BadSample]]:
        """One result per item, in order."""
        ...

    def inputs(self, item: Item) -> list[Input]:
        """Image files of one item, for checking each file once; empty if the images are inside one big file."""
        ...


@dataclass(frozen=True)
class Plan:
    """A split before it is built.

    Attributes:
        dataset, split, kind: e.g. ``fashioniq``, ``val``, ``gallery``.
        items: in final order. Training: a fixed permutation that mixes categories and views; evaluation: source order.
        recipe: makes the samples.
        fields: fields of every sample; ``optional`` those that some samples of this dataset may lack.
        options: what shapes the bytes, e.g. JPEG quality; part of the hash.
        encoders: versions of libraries that encode pixels, if any do.
        sources: annotation files and containers, hashed into the index.
        root: what source names are relative to.
        shard_size: samples per shard.
        subsets: named lists of keys, e.g. ``val_overlap``.
        notes: findings about the raw data worth reporting.
    """

    dataset: str
    split: str
    kind: Kind
    items: Sequence[Item]
    recipe: Recipe
    fields: tuple[str, ...]
    root: Path
    optional: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    encoders: Mapping[str, str] = field(default_factory=dict)
    sources: Sequence[Path] = ()
    shard_size: int = 1024
    subsets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for item in self.items:
            if item.key in seen:
                raise ValueError(
                    f"{self.name}: two samples have the key {item.key!r}; keys must be unique in a split. {self._origin}"
                )
            if not item.key or not all(c.isascii() and (c.isalnum() or c in "_-") for c in item.key):
                raise ValueError(f"{self.name}: key {item.key!r} has characters other than A-Z a-z 0-9 _ -. {self._origin}")
            seen.add(item.key)

    @property
    def name(self) -> str:
        """``dataset/kind-split``."""
        return f"{self.dataset}/{self.kind}-{self.split}"

    @property
    def _origin(self) -> str:
        """What names its samples, for messages."""
        return f"Keys come from {shortened(map(str, self.sources)) or self.root}"

    @property
    def folder(self) -> str:
        """Folder of the split's shards inside the dataset's."""
        return f"{self.kind}-{self.split}"

    @property
    def evaluation(self) -> bool:
        """Whether a lost sample would change what a metric measures."""
        return self.split != TRAIN

    def shards(self) -> Iterable[tuple[str, Sequence[Item]]]:
        """(file name, items) of every shard."""
        for number, start in enumerate(range(0, len(self.items), self.shard_size)):
            yield f"{self.dataset}-{self.folder}-{number:05d}.tar", self.items[start : start + self.shard_size]

    def shard_hash(self, items: Sequence[Item]) -> str:
        """SHA-256 over everything that shapes a shard's bytes, except the images themselves."""
        parts = [
            self.dataset,
            self.split,
            self.kind,
            dict(self.options),
            dict(self.encoders),
            [[i.key, i.group, i.spec] for i in items],
        ]
        return hashlib.sha256(compact_json(parts)).hexdigest()


def in_order(items: Iterable[Item], split: str, seed: str) -> list[Item]:
    """Items in final order: training in a fixed permutation that a text seeds, evaluation as they come."""
    listed = list(items)
    if split == TRAIN:
        random.Random(seed).shuffle(listed)
    return listed


class MissingDataError(RuntimeError):
    """Raw data that is absent or unusable; the message says what, what was expected and how to mend it."""


def compact_json(value: Any) -> bytes:
    """UTF-8, sorted keys, no blanks: equal values have equal bytes."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str).encode()


def twice(names: Iterable[str]) -> list[str]:
    """Names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def products_in_several(plans: Sequence[Plan]) -> list[str]:
    """A finding about products that stand in more than one split; [] without such, as of samples that name none."""
    where: dict[Any, set[str]] = {}
    for plan in plans:
        for meta in (getattr(item.spec, "meta", {}) for item in plan.items):
            where.setdefault(meta.get("product"), set()).add(plan.split)
    both = sorted(product for product, splits in where.items() if product is not None and len(splits) > 1)
    return [f"{len(both):,} products stand in more than one split: {shortened(map(str, both))}"] if both else []


def size_notes(split: str, found: int, published: int, unit: str, mute: int) -> list[str]:
    """A split of another size than the published one, and samples (``unit``) without a description."""
    notes = [f"the published {split} split has {published:,} {unit}"] if found != published else []
    return notes + ([f"{mute:,} {unit} have no description"] if mute else [])


def shortened(names: Iterable[str], most: int = 5) -> str:
    """The first few of many names, and how many more there are."""
    listed = list(names)
    shown = ", ".join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most:,} more"


def listing(folder: Path) -> str:
    """What a folder holds, for messages."""
    return (
        (shortened(sorted(p.name for p in folder.iterdir())) or "nothing") if folder.is_dir() else "the folder does not exist"
    )
