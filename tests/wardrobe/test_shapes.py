"""Outlines: sleeves and lengths can be told from extents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unifashion_pl.wardrobe import (
    Product,
    render_product,
)

SIZE = 64


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB 0..255 -> CIE Lab (D65), from the definition."""
    c = rgb / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def garment_mask(image: Image.Image) -> NDArray[np.bool_]:
    """Pixels that differ from the backdrop, whose colour is interpolated between the picture's left and right edge."""
    pixels = lab(np.asarray(image, float))
    edge = np.median(pixels[:, [0, 1, -2, -1]].reshape(-1, 3), axis=0)
    return np.linalg.norm(pixels - edge, axis=-1) > 16


def front(product: Product, key: str = "t") -> Image.Image:
    return render_product(product, "front", SIZE, key)


def plain(category: str, **changes: object) -> Product:
    values = {"sleeve": "none", "length": "short", "neckline": "round", "buttons": 0, **changes}
    if category == "jacket":
        values |= {"sleeve": changes.get("sleeve", "long"), "neckline": "collar", "buttons": 3}
    return Product(
        category, str(changes.pop("colour", "red")), "plain", "", **{k: v for k, v in values.items() if k != "colour"}
    )  # type: ignore[arg-type]


def test_sleeve_and_length_are_recoverable_from_extents() -> None:
    wide: dict[str, list[float]] = {}
    for sleeve in ("none", "short", "long"):
        for k in range(6):
            mask = garment_mask(front(plain("shirt", sleeve=sleeve), f"s{k}"))
            rows = mask.any(1).nonzero()[0]
            upper, lower = mask[rows[0] : rows[0] + len(rows) // 2], mask[rows[0] + int(len(rows) * 0.7) : rows[-1]]
            hem = np.median(lower.sum(1))
            wide.setdefault(sleeve, []).append(float(mask.any(0).sum() / max(1, np.median(upper[-4:].sum(1)))) if hem else 0.0)
    assert max(wide["none"]) < min(wide["long"])
    ratio: dict[str, list[float]] = {}
    for length in ("short", "knee", "long"):
        for k in range(6):
            mask = garment_mask(front(plain("skirt", length=length), f"l{k}"))
            ratio.setdefault(length, []).append(float(mask.any(1).sum() / mask.any(0).sum()))
    assert max(ratio["short"]) < min(ratio["knee"])
    assert max(ratio["knee"]) < min(ratio["long"])
