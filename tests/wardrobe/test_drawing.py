"""Colours of drawn garments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unifashion_pl.wardrobe import (
    Product,
    render_product,
)
from unifashion_pl.wardrobe.products import COLOURS

SIZE = 64


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB 0..255 -> CIE Lab (D65), from the definition."""
    c = rgb / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def front(product: Product, key: str = "t") -> Image.Image:
    return render_product(product, "front", SIZE, key)


def plain(category: str, **changes: object) -> Product:
    values = {"sleeve": "none", "length": "short", "neckline": "round", "buttons": 0, **changes}
    if category == "jacket":
        values |= {"sleeve": changes.get("sleeve", "long"), "neckline": "collar", "buttons": 3}
    return Product(
        category, str(changes.pop("colour", "red")), "plain", "", **{k: v for k, v in values.items() if k != "colour"}
    )  # type: ignore[arg-type]


def test_colours_are_far_apart_and_recoverable_from_a_front_view() -> None:
    names = list(COLOURS)
    centres = lab(np.array([COLOURS[n] for n in names], float))
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + 1e3 * np.eye(len(names))
    assert distances.min() > 18
    right = total = 0
    for category in ("dress", "shirt", "skirt", "trousers"):
        for colour in names:
            product = plain(category, colour=colour, neckline="collar" if category == "shirt" else "round")
            image = front(product, f"{category}{colour}")
            pixels = lab(np.asarray(image, float))[24:44, 20:44].reshape(-1, 3)
            found = names[int(np.linalg.norm(centres - np.median(pixels, axis=0), axis=1).argmin())]
            right, total = right + (found == colour), total + 1
    assert right / total >= 0.95
