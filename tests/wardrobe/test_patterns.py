"""Patterns."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unifashion_pl.wardrobe import (
    Product,
    render_product,
)

SIZE = 64


def front(product: Product, key: str = "t") -> Image.Image:
    return render_product(product, "front", SIZE, key)


@pytest.mark.parametrize(("pattern", "axis"), [("striped", 0), ("pinstriped", 1)])
def test_stripes_run_where_the_name_says(pattern: str, axis: int) -> None:
    for k in range(8):
        product = Product("dress", "white", pattern, "blue", "none", "long", "round", 0)
        grey = np.asarray(front(product, f"p{k}").convert("L"), float)[26:50, 24:40]
        along = np.abs(np.diff(grey, axis=axis)).mean()
        across = np.abs(np.diff(grey, axis=1 - axis)).mean()
        assert along > 2 * across, (pattern, k)
