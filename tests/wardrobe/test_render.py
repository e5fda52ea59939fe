"""Attributes of products are visible in their pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image

from unifashion_pl.wardrobe import (
    Product,
    make_product,
    render_product,
)

SIZE = 64


def front(product: Product, key: str = "t") -> Image.Image:
    return render_product(product, "front", SIZE, key)


def test_mean_colour_does_not_solve_retrieval() -> None:
    products = [make_product(3, i) for i in range(60)]
    first = np.stack([np.asarray(render_product(p, "front", 32, f"a{i}"), float) for i, p in enumerate(products)])
    second = np.stack([np.asarray(render_product(p, "worn", 32, f"b{i}"), float) for i, p in enumerate(products)])
    for a, b in ((first.mean((1, 2)), second.mean((1, 2))), (first.reshape(60, -1), second.reshape(60, -1))):
        nearest = np.linalg.norm(a[:, None] - b[None], axis=-1).argmin(1)
        assert (nearest == np.arange(60)).mean() < 0.35
