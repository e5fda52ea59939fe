"""The embedded default: the procedural wardrobe, made on first use, through the real converters and DataModules.

Its pairs mix FashionGen, Fashion200K and Fashion-IQ-Cap, so that a caption head learns all three styles.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from unifashion_pl.datamodules.benchmark import CAPTIONS, FOLDERS, PAIRS, BenchmarkDataModule

from unifashion_pl.files import WriteError, check_writable, exclusive
from unifashion_pl.wardrobe.catalogue import spec_of
from unifashion_pl.wardrobe.write import FORMAT, write_wardrobe


def default_cache() -> Path:
    """``$UNIFASHION_CACHE``, or ``~/.cache/unifashion-pl``; without a home that can be written, a folder of the user's for temporary files."""
    if named := os.environ.get("UNIFASHION_CACHE"):
        return Path(named)
    with suppress(RuntimeError, WriteError):  # no home; one that is not the user's
        home = Path.home() / ".cache" / "unifashion-pl"
        return home if home.is_dir() else check_writable(home, folder=True)
    return Path(tempfile.gettempdir()) / f"unifashion-pl-{getattr(os, 'getuid', lambda: 0)()}"


def _version(size: str) -> str:
    """A hash of what a wardrobe of this size holds, so that a cache of another release is not taken for it."""
    return hashlib.sha256(f"{FORMAT} {spec_of(size)}".encode()).hexdigest()[:6]


class WardrobeDataModule(BenchmarkDataModule):
    """Toy data in the layouts of FashionGen, Fashion200K, Fashion-IQ and VITON-HD: drawn garments with texts that are true by construction.

    The captions of training targets come from the drawing's truth (``captions.train.jsonl``); the gallery has none of its own.

    Args:
        root: where wardrobes are kept; default :func:`default_cache`.
        size: ``demo``, ``tiny``, or ``tryon`` (1,600 persons to learn from, 64 to test).
        seed: of the drawings and of the order of training.
        pairs, triplets, tryon: which streams to train and evaluate on; pairs are evaluated on FashionGen.
        tryon_pixel_size: None = ``pixel_size``, or 64 x 48 without one.
        pair_shares: None = all three, also beside triplets, so that no style is forgotten.
        prepare_workers: processes that draw and convert.
        batch_size, num_workers, image_size, pixel_size, **common: as in :class:`~unifashion_pl.datamodules.benchmark.BenchmarkDataModule`;
            a library of the caption head's own captions (``gallery_captions``) is made by
            :func:`unifashion_pl.datamodules.captioners.write_gallery_captions`.
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
        num_workers: int = 0,
        image_size: int = 64,
        pixel_size: tuple[int, int] | None = (64, 64),
        tryon_pixel_size: tuple[int, int] | None = None,
        pair_shares: dict[str, int] | None = None,
        prepare_workers: int = 2,
        **common: Any,
    ) -> None:
        self.folder = Path(root) if root is not None else default_cache()
        self.folder = self.folder / f"wardrobe-{size}-{seed}-{_version(size)}"
        self.size, self.seed, self.prepare_workers = size, seed, prepare_workers
        super().__init__(
            self.folder / "raw",
            self.folder / "shards",
            pairs,
            triplets,
            tryon,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            image_size=image_size,
            pixel_size=pixel_size,
            tryon_pixel_size=tryon_pixel_size or pixel_size or (64, 48),
            captions=self.folder / "raw" / FOLDERS["fashioniq"] / CAPTIONS,
            pair_shares=PAIRS if pair_shares is None else pair_shares,
            prepare_workers=prepare_workers,
            **common,
        )

    def prepare_data(self) -> None:
        """Draw the wardrobe and make its shards, once per cache folder, size and seed; other processes wait."""
        with exclusive(self.folder):
            write_wardrobe(self.folder / "raw", spec=self.size, seed=self.seed, workers=self.prepare_workers)
        super().prepare_data()
