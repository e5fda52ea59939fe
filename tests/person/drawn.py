"""Inputs of drawn persons, whose masks, label maps and joints are exact by construction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from unifashion_pl.person.body import LIMITS
from unifashion_pl.person.inputs import prepare_design, prepare_tryon

W, H = 192, 256


SMALL = replace(LIMITS, short_side=64)


NAME = "00001_00"


def tryon(files: dict[str, Path], *roles: str, tmp: Path | None = None, **options: Any) -> Any:
    chosen = {role: files[role] for role in ("person", "garment", *roles)}
    return prepare_tryon(**{**chosen, "size": (H, W), "image_size": 32, "limits": SMALL, "pictures": tmp, **options})


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def inverted(files: dict[str, Path]) -> Image.Image:
    return ImageOps.invert(opened(files["mask"]).convert("L"))


def shifted(files: dict[str, Path], factor: float) -> dict[str, Any]:
    values = json.loads(files["pose"].read_text())["people"][0]["pose_keypoints_2d"]
    return {"people": [{"pose_keypoints_2d": [v * factor if k % 3 < 2 else v for k, v in enumerate(values)]}]}


def design(files: dict[str, Path], **options: Any) -> Any:
    settings = {"mask": files["mask"], "pose": files["pose"], "size": (H, W), "image_size": 32, "limits": SMALL}
    return prepare_design(files["person"], **{**settings, **options})
