from __future__ import annotations

from pathlib import Path

import pytest
from person.drawn import NAME, H, W

from unifashion_pl.wardrobe import WardrobeSpec, write_wardrobe


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both parts of MGD; not to be changed."""
    spec = WardrobeSpec(
        products_train=1,
        products_val=1,
        views=1,
        image_size=32,
        fiq_train=4,
        fiq_val=4,
        fiq_gallery=4,
        tryon_train=3,
        tryon_test=2,
        tryon_size=(W, H),
        short_train=1,
        short_test=1,
    )
    return write_wardrobe(tmp_path_factory.mktemp("w") / "w", spec=spec, workers=1, progress=False, layouts=["mgd"])


@pytest.fixture(scope="session")
def files(root: Path) -> dict[str, Path]:
    """Role -> file of one training pair of VITON-HD."""
    train = root / "viton-hd/train"
    names = {
        "person": "image/{}.jpg", "garment": "cloth/{}.jpg", "mask": "agnostic-mask/{}_mask.png", "agnostic": "agnostic-v3.2/{}.jpg",
        "parse": "image-parse-v3/{}.png", "densepose": "image-densepose/{}.jpg", "pose": "openpose_json/{}_keypoints.json",
        "sketch": "im_sketch/{}.png",
    }  # fmt: skip
    return {role: train / name.format(NAME) for role, name in names.items()}
