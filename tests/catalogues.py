"""A catalogue of small pictures on the disk, for the tests of what embeds and builds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from small import images

from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.stored import IndexSettings
from unifashion_pl.inference.encode import fingerprint
from unifashion_pl.module import UniFashionModule


def catalogue(root: Path, count: int = 20, captions: bool = True) -> list[IndexItem]:
    """Rows i00, i01, … with pictures that differ, every third with a caption."""
    root.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(
        images(count, 2, seed=5)
    ):  # coarse patterns: unlike fine noise, an untrained tower tells them apart
        Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((40, 36), Image.Resampling.NEAREST).save(root / f"{i:02d}.png")
    return [
        IndexItem(f"i{i:02d}", "a red dress" if captions and i % 3 == 0 else "", str(root / f"{i:02d}.png"), None, {"price": i})
        for i in range(count)
    ]


def settings_of(model: UniFashionModule, storage: str = "fp32", **more: int) -> IndexSettings:
    return IndexSettings("both", fingerprint(model), storage, **more)  # type: ignore[arg-type]


def damage(path: Path) -> None:
    """A good header, and noise behind it."""
    data = bytearray(path.read_bytes())
    data[80:] = np.random.default_rng(0).bytes(len(data) - 80)
    path.write_bytes(bytes(data))
