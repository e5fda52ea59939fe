"""Fashion200K: label files and an image tree -> image-text pairs.

Views of a product share their text, so that positives go by product (the folder an image lies in).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from unifashion_pl.datamodules.base import FashionDataModule

from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.plan import Input, Item, MissingDataError, Plan, in_order, shortened, size_notes, twice
from unifashion_pl.data.recipes import ImageRecipe, ImageSpec
from unifashion_pl.reading import FormatError, is_inside, text_lines

CATEGORIES = ("dress", "jacket", "pants", "skirt", "top")
SPLITS = ("train", "test")
PUBLISHED = {"train": 172_049, "test": 29_789}
SHARD_SIZE = 1024
LICENCE = "none stated"
PUBLISHED_SAMPLES = {"pairs-train": PUBLISHED["train"], "pairs-test": PUBLISHED["test"]}


class Fashion200KRecipe(ImageRecipe):
    """Label lines -> ``image`` and ``meta.json``; the tree may stand below ``women/`` of the root or of ``root/images``."""

    def inputs(self, item: Item) -> list[Input]:
        (there,) = super().inputs(item)
        below = self.folder / "images" / item.spec.path
        return [there if os.path.isfile(there.path) or not os.path.isfile(below) else replace(there, path=below)]


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
    if again := twice(meta["id"] for meta, _ in rows):
        raise MissingDataError(f"{root}/labels: {len(again)} images of {split} are listed twice: {shortened(again)}")
    items = [Item(meta["id"], meta["category"], ImageSpec(meta, path)) for meta, path in rows]
    notes = [f"{len(rows):,} images, {len({meta['product'] for meta, _ in rows}):,} products"]
    mute = sum(not meta["description"] for meta, _ in rows)
    notes += size_notes(split, len(rows), PUBLISHED[split], "images", mute)
    return Plan(
        dataset="fashion200k",
        split=split,
        kind="pairs",
        items=in_order(items, split, "fashion200k"),
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


def variant(root: Path) -> str:
    """Which copy this is."""
    queries = "with" if (Path(root) / "test_queries.txt").is_file() else "without"
    return f"label files and {'images/women' if (Path(root) / 'images').is_dir() else 'women'}/, {queries} test_queries.txt"


class Fashion200KDataModule(FashionDataModule):
    """Fashion200K for retrieval and short captions; the test split serves validation too: there is no other.

    Args:
        **common: see :class:`~unifashion_pl.datamodules.base.FashionDataModule`.
    """

    stream = "pairs"
    plans = staticmethod(plans)
    train_folder, eval_folders = "pairs-train", ("pairs-test",)

    def assembler(self) -> PairAssembler:
        """Makes :class:`PairBatch`; text and caption are the description."""
        return PairAssembler(self.encoder, self.pixels, "description", "description", style="fashion200k")
