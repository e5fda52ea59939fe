"""Fashion200K: label files and an image tree -> image-text pairs.

Views of a product share their text, so that positives go by product (the folder an image lies in).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unifashion_pl.datamodules.base import FashionDataModule

from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.plan import Input, Item, MissingDataError, Plan, some
from unifashion_pl.data.recipes import FileRecipe
from unifashion_pl.data.stream import EvalLoader, TrainLoader
from unifashion_pl.reading import FormatError, is_inside, text_lines

CATEGORIES = ("dress", "jacket", "pants", "skirt", "top")
SPLITS = ("train", "test")
PUBLISHED = {"train": 172_049, "test": 29_789}
SHARD_SIZE = 1024
LICENCE = "none stated"
PUBLISHED_SAMPLES = {"pairs-train": PUBLISHED["train"], "pairs-test": PUBLISHED["test"]}


@dataclass
class Fashion200KRecipe(FileRecipe):
    """Label lines -> ``image`` and ``meta.json``."""

    root: Path

    def inputs(self, item: Item) -> list[Input]:
        """The image; the tree may stand below ``women/`` of the root or of ``root/images``."""
        meta, path = item.spec
        place = next((p for p in (self.root / path, self.root / "images" / path) if os.path.isfile(p)), self.root / path)
        return [Input(meta["id"], "image", place)]

    def meta(self, item: Item) -> dict[str, Any]:
        """See the base class."""
        return dict(item.spec[0])


def read_labels(root: Path, split: str) -> list[tuple[dict[str, Any], str]]:
    """(``meta.json`` without source, path below the root) of every label line, categories in alphabetical order.

    Raises:
        MissingDataError: a label file is absent, or a line is not path, score and description separated by tabs.
    """
    rows = []
    for category in CATEGORIES:
        path = root / "labels" / f"{category}_{split}_detect_all.txt"
        if not path.is_file():
            raise MissingDataError(
                f"{path} is missing: expected one label file per category and split, as Fashion200K has them"
            )
        try:
            rows += [_row(line, category, f"{path}:{number}") for number, line in text_lines(path)]
        except FormatError as error:
            raise MissingDataError(f"{error}; download it again") from error
    return rows


def _row(line: str, category: str, where: str) -> tuple[dict[str, Any], str]:
    parts = line.split("\t")
    if len(parts) != 3 or len(Path(parts[0]).parts) < 3:
        raise MissingDataError(f"{where}: expected path, score and description separated by tabs, found {line[:80]!r}")
    image, description = parts[0].strip(), parts[2]
    if not is_inside(image):
        raise MissingDataError(f"{where}: the image {image[:80]!r} lies outside of the dataset")
    path = Path(image)
    meta = {
        "id": path.stem,
        "product": path.parent.name,
        "category": category,
        "subcategory": path.parent.parent.name,
        "name": "",
        "description": description.strip(),
    }
    return meta, path.as_posix()


def plan_split(root: Path, split: str) -> Plan:
    """Plan of one split; training is a fixed permutation.

    Raises:
        MissingDataError: as :func:`read_labels`, or an image is listed twice.
    """
    rows = read_labels(root, split)
    ids = [meta["id"] for meta, _ in rows]
    if len(set(ids)) < len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1}) if len(ids) < 50_000 else []
        raise MissingDataError(f"{root}/labels: {len(ids) - len(set(ids))} images of {split} are listed twice: {some(twice)}")
    items = [Item(meta["id"], meta["category"], (meta, path)) for meta, path in rows]
    if split == "train":
        random.Random("fashion200k").shuffle(items)
    notes = [f"{len(rows):,} images, {len({meta['product'] for meta, _ in rows}):,} products"]
    if len(rows) != PUBLISHED[split]:
        notes.append(f"the published {split} split has {PUBLISHED[split]:,} images")
    if mute := sum(not meta["description"] for meta, _ in rows):
        notes.append(f"{mute:,} images have no description")
    return Plan(
        dataset="fashion200k",
        split=split,
        kind="pairs",
        items=items,
        recipe=Fashion200KRecipe(root),
        fields=("image", "meta"),
        root=root,
        sources=[root / "labels" / f"{category}_{split}_detect_all.txt" for category in CATEGORIES],
        shard_size=SHARD_SIZE,
        notes=notes,
    )


def plans(root: Path) -> Iterable[Plan]:
    """Plans of both splits."""
    return [plan_split(Path(root), split) for split in SPLITS]


def findings(root: Path, made: Sequence[Plan]) -> list[str]:
    """Products that stand in both splits."""
    products = [{item.spec[0]["product"] for item in plan.items} for plan in made]
    both = sorted(set.intersection(*products)) if len(products) > 1 else []
    return [f"{len(both):,} products stand in train and test: {some(both)}"] if both else []


def variant(root: Path) -> str:
    """Which copy this is."""
    queries = "with" if (Path(root) / "test_queries.txt").is_file() else "without"
    return f"label files and {'images/women' if (Path(root) / 'images').is_dir() else 'women'}/, {queries} test_queries.txt"


class Fashion200KDataModule(FashionDataModule):
    """Fashion200K for retrieval and short captions.

    Args:
        **common: see :class:`~unifashion_pl.datamodules.base.FashionDataModule`.
    """

    stream = "pairs"

    def folders(self) -> Sequence[str]:
        """See the base class."""
        return ("pairs-train", "pairs-test")

    def plans(self, root: Path) -> Iterable[Plan]:
        """See the base class."""
        return plans(root)

    def assembler(self) -> PairAssembler:
        """Makes :class:`PairBatch`; text and caption are the description."""
        return PairAssembler(self.encoder, self.pixels, "description", "description", style="fashion200k")

    def train_loader(self) -> TrainLoader[Any]:
        """See the base class."""
        return self.training(self.source("pairs-train"), self.assembler())

    def eval_loaders(self, stage: str) -> list[EvalLoader[Any]]:
        """The test split, which serves validation too: Fashion200K has no other."""
        return [self.evaluation(self.source("pairs-test"), self.assembler())]
