"""Maps of drawn persons, and what they do not tell."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unifashion_pl.wardrobe import (
    Product,
)
from unifashion_pl.wardrobe.drawing import Frame, draw_garment
from unifashion_pl.wardrobe.person import UPPER
from unifashion_pl.wardrobe.tryon import fabric_of


def plain(category: str, **changes: object) -> Product:
    values = {"sleeve": "none", "length": "short", "neckline": "round", "buttons": 0, **changes}
    if category == "jacket":
        values |= {"sleeve": changes.get("sleeve", "long"), "neckline": "collar", "buttons": 3}
    return Product(
        category, str(changes.pop("colour", "red")), "plain", "", **{k: v for k, v in values.items() if k != "colour"}
    )  # type: ignore[arg-type]


def test_tryon_maps_fit_each_other(small: Path) -> None:
    root = small / "viton-hd" / "train"
    for name in ("00000_00", "00001_00"):
        mask = np.asarray(Image.open(root / f"agnostic-mask/{name}_mask.png"))
        parse = Image.open(root / f"image-parse-v3/{name}.png")
        assert parse.mode == "P"
        worn = np.isin(np.asarray(parse), [5, 7])
        assert worn.mean() > 0.05
        assert (mask[worn] == 255).mean() > 0.99
        agnostic = np.asarray(Image.open(root / f"agnostic-v3.2/{name}.jpg"), int)
        assert np.abs(agnostic[mask == 255] - 128).mean() < 8
        pose = json.loads((root / f"openpose_json/{name}_keypoints.json").read_text())
        assert len(pose["people"][0]["pose_keypoints_2d"]) == 75
    captions = json.loads((small / "viton-hd/captions.json").read_text())
    assert set(captions) == {"00000", "00001", "50000", "50001"}
    assert UPPER == ("shirt", "top", "jacket")
    unpaired = (small / "viton-hd/test_pairs.txt").read_text().split()
    assert unpaired[0] != unpaired[1]


def test_photos_of_one_item_show_the_same_fabric(small: Path) -> None:
    """The word on a chest and where stripes lie belong to the item, folds and light to the photo."""
    lettered = replace(plain("top", colour="white"), pattern="lettered", second="black")
    frame = Frame(128, 128, 110.0, 0.0, 64.0, 40.0)

    def printed(item: int, photo: int) -> NDArray[np.bool_]:
        garment = draw_garment(lettered, frame, random.Random(photo), random.Random(item))
        return (garment.rgb.mean(-1) < 120) & (garment.mask > 0.5)

    assert np.array_equal(printed(1, 1), printed(1, 2))
    assert len({printed(item, 1).tobytes() for item in range(20)}) > 3
    assert fabric_of(0, 3).random() == fabric_of(0, 3).random() != fabric_of(0, 4).random()
