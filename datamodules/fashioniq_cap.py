"""Fashion-IQ-Cap: Fashion-IQ's training images with captions written from the image alone (App. C of the paper), as pairs.

The captions are not part of Fashion-IQ: they come from a caption library beside the images (JSON Lines with provenance).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from unifashion_pl.datamodules.annotate import Target
from unifashion_pl.datamodules.base import FashionDataModule
from unifashion_pl.datamodules.fashioniq import LICENCE, GalleryRecipe, GallerySpec, findings, plan_of, variant
from unifashion_pl.datamodules.fashioniq_raw import CATEGORIES, RawFashionIQ

from unifashion_pl.arguments import choice
from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.captions import read_captions
from unifashion_pl.data.plan import Item, Plan
from unifashion_pl.data.stream import TrainLoader

__all__ = ["LICENCE", "PUBLISHED_SAMPLES", "FashionIQCapDataModule", "findings", "plans", "variant"]

#: Distinct ids of all training splits, counted in the published annotations.
PUBLISHED_SAMPLES = {"pairs-train": 45_429}


def plans(root: Path) -> Iterable[Plan]:
    """The distinct images of all training splits, each under the first category that lists it.

    The subset ``val_overlap`` names those that also stand in a validation split.
    """
    raw = RawFashionIQ(Path(root))
    items = [Item(id, category, GallerySpec(id, category, False)) for id, category in raw.category_of("train").items()]
    overlap = sorted(raw.category_of("val").keys() & {item.key for item in items})
    more = {
        "dataset": "fashioniq-cap",
        "subsets": {"val_overlap": overlap},
        "notes": [f"{len(items):,} distinct training images, {len(overlap):,} of them also in a validation split"],
    }
    return [plan_of(raw, "train", "pairs", items, GalleryRecipe(raw.images), ("image", "meta"), **more)]


def training_texts(root: Path) -> dict[str, list[str]]:
    """Category -> modifying texts of its training split, from which the annotation's keywords come; never val or test.

    Raises:
        MissingDataError: the annotations are absent.
    """
    raw = RawFashionIQ(Path(root))
    return {category: [text for entry in raw.entries(category, "train") for text in entry.captions] for category in CATEGORIES}


def caption_targets(root: Path, split: str) -> list[Target]:
    """Distinct images of a split, each under the first category that lists it.

    Raises:
        MissingDataError: the annotations are absent.
    """
    raw = RawFashionIQ(Path(root))
    return [Target(id, category, raw.images.path(id, category)) for id, category in raw.category_of(split).items()]


class FashionIQCapDataModule(FashionDataModule):
    """Image-caption pairs of Fashion-IQ's training images; captions to evaluate on would have to be generated first.

    Args:
        captions: caption library (JSON Lines); images without a caption are left out, and how many is said.
        val_overlap: ``exclude`` leaves out images that also stand in a validation split.
        allow_unsafe_captions: accept captions without a record of what their writer saw.
        **common: see :class:`~unifashion_pl.datamodules.base.FashionDataModule`.
    """

    stream = "pairs"
    plans = staticmethod(plans)
    train_folder = "pairs-train"

    def __init__(
        self,
        captions: str | Path,
        root: str | Path | None = None,
        shards: str | Path | None = None,
        *,
        val_overlap: Literal["exclude", "keep"] = "exclude",
        allow_unsafe_captions: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(root, shards, **common)
        self.val_overlap = choice(val_overlap, "val_overlap", ("exclude", "keep"))
        self.captions, self.allow_unsafe_captions = captions, allow_unsafe_captions

    def train_loader(self) -> TrainLoader[Any]:
        """Images that have a caption."""
        captions = read_captions(self.captions, allow_unsafe=self.allow_unsafe_captions)
        source = self.source("pairs-train")
        mute = [key for key in source.keys if not captions.get(key)]
        if len(mute) == len(source.keys):
            raise ValueError(
                f"{self.captions} has a caption for none of the {len(mute):,} training images: is it of another split?"
            )
        if mute:
            warnings.warn(f"fashioniq-cap: {len(mute):,} of {len(source.keys):,} training images have no caption", stacklevel=2)
        overlap = source.subsets.get("val_overlap", []) if self.val_overlap == "exclude" else []
        assembler = PairAssembler(self.encoder, self.pixels, "description", "description", "fashioniq", captions)
        return self.training(source, assembler, [*mute, *overlap])
