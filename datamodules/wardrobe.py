"""The embedded default: the procedural wardrobe, made on first use, through the real converters and DataModules.

Its pairs mix FashionGen, Fashion200K and Fashion-IQ-Cap, so that a caption head learns all three styles.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from unifashion_pl.datamodules.fashion200k import Fashion200KDataModule
from unifashion_pl.datamodules.fashiongen import FashionGenDataModule
from unifashion_pl.datamodules.fashioniq import FashionIQDataModule
from unifashion_pl.datamodules.fashioniq_cap import FashionIQCapDataModule
from unifashion_pl.datamodules.mixed import MixedPairsDataModule
from unifashion_pl.datamodules.multitask import MultiTaskDataModule
from unifashion_pl.datamodules.vitonhd import VitonHDDataModule

from unifashion_pl.data.stream import EvalLoader

#: Dataset -> its folder of raw files in a wardrobe.
RAW_FOLDERS = {
    "fashiongen": "fashiongen",
    "fashion200k": "fashion200k",
    "fashioniq": "fashion-iq",
    "fashioniq_cap": "fashion-iq",
    "vitonhd": "viton-hd",
}


def default_cache() -> Path:
    """``$UNIFASHION_CACHE``, or ``~/.cache/unifashion-pl``."""
    named = os.environ.get("UNIFASHION_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "unifashion-pl"


def _version(size: str) -> str:
    """A hash of what a wardrobe of this size holds, so that a cache of another release is not taken for it."""
    from unifashion_pl.wardrobe import SIZES
    from unifashion_pl.wardrobe.write import FORMAT

    if size not in SIZES:
        raise ValueError(f"unknown wardrobe size {size!r}; known are {', '.join(SIZES)}")
    return hashlib.sha256(f"{FORMAT} {SIZES[size]}".encode()).hexdigest()[:6]


def shares(batch_size: int) -> tuple[int, int, int]:
    """How many pairs of a batch are FashionGen's, Fashion-IQ-Cap's and Fashion200K's: about 3 : 2 : 1.

    Raises:
        ValueError: fewer than one each.
    """
    if batch_size < 3:
        raise ValueError(f"batch_size is {batch_size}, but a batch of the wardrobe's pairs mixes three datasets: at least 3")
    short, detailed = max(1, batch_size // 6), max(1, batch_size // 3)
    return batch_size - detailed - short, detailed, short


class ShortCaptionDataModule(Fashion200KDataModule):
    """Fashion200K to train on; the wardrobe's evaluation is FashionGen's."""

    def folders(self) -> Sequence[str]:
        """Training shards only."""
        return ("pairs-train",)

    def eval_loaders(self, stage: str) -> list[EvalLoader[Any]]:
        """None."""
        return []


class WardrobeDataModule(MultiTaskDataModule):
    """Toy data in the layouts of FashionGen, Fashion200K, Fashion-IQ and VITON-HD: drawn garments with texts that are true by construction.

    The captions of training targets come from the drawing's truth (``captions.train.jsonl``); the gallery has none of its own.

    Args:
        root: where wardrobes are kept; default :func:`default_cache`.
        size: ``demo`` or ``tiny``.
        seed: of the drawings and of the order of training.
        pairs, triplets, tryon: which streams to train and evaluate on; pairs are evaluated on FashionGen.
        batch_size, eval_batch_size, num_workers, image_size, pixel_size: as in
            :class:`~unifashion_pl.datamodules.base.FashionDataModule`, for all streams.
        triplet_batch_size, tryon_batch_size: None = ``batch_size``.
        val_overlap, gallery_captions: as in :class:`~unifashion_pl.datamodules.FashionIQDataModule`; a library of the caption head's
            own captions is made by :func:`unifashion_pl.evaluation.gallery_captions.write_gallery_captions`.
        prepare_workers: processes that draw and convert.
        start_method: of worker processes; None = the platform's default.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        size: str = "demo",
        seed: int = 0,
        pairs: bool = True,
        triplets: bool = False,
        tryon: bool = False,
        *,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        triplet_batch_size: int | None = None,
        tryon_batch_size: int | None = None,
        num_workers: int = 0,
        image_size: int = 64,
        pixel_size: tuple[int, int] | None = (64, 64),
        val_overlap: Literal["exclude", "keep"] = "exclude",
        gallery_captions: str | Path | None = None,
        prepare_workers: int = 2,
        start_method: str | None = None,
    ) -> None:
        self.folder = Path(root) if root is not None else default_cache()
        self.folder = self.folder / f"wardrobe-{size}-{seed}-{_version(size)}"
        self.size, self.seed, self.prepare_workers = size, seed, prepare_workers
        common: dict[str, Any] = {
            "pixel_size": pixel_size,
            "seed": seed,
            "eval_batch_size": eval_batch_size,
            "num_workers": num_workers,
            "image_size": image_size,
            "prepare_workers": prepare_workers,
            "start_method": start_method,
        }
        paths = {
            name: {"root": self.folder / "raw" / raw, "shards": self.folder / "shards" / name}
            for name, raw in RAW_FOLDERS.items()
        }
        captions = self.folder / "raw" / RAW_FOLDERS["fashioniq"] / "captions.train.jsonl"
        sizes = shares(batch_size) if pairs else (1, 1, 1)
        fashiongen = FashionGenDataModule(**paths["fashiongen"], batch_size=sizes[0], **common)
        fashioniq_cap = FashionIQCapDataModule(
            captions, **paths["fashioniq_cap"], batch_size=sizes[1], val_overlap=val_overlap, **common
        )
        mixed = MixedPairsDataModule(
            [fashiongen, fashioniq_cap, ShortCaptionDataModule(**paths["fashion200k"], batch_size=sizes[2], **common)]
        )
        fashioniq = FashionIQDataModule(
            **paths["fashioniq"],
            batch_size=triplet_batch_size or batch_size,
            captions=captions,
            gallery_captions=gallery_captions,
            val_overlap=val_overlap,
            **common,
        )
        vitonhd = VitonHDDataModule(
            **paths["vitonhd"], batch_size=tryon_batch_size or batch_size, **{**common, "pixel_size": pixel_size or (64, 48)}
        )
        super().__init__(mixed if pairs else None, fashioniq if triplets else None, vitonhd if tryon else None)

    def prepare_data(self) -> None:
        """Draw the wardrobe and make its shards, once per cache folder, size and seed; other processes wait."""
        from unifashion_pl.wardrobe import write_wardrobe

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            write_wardrobe(self.folder / "raw", spec=self.size, seed=self.seed, workers=self.prepare_workers)
        super().prepare_data()
