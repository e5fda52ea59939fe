"""One picture of one product, from (seed, id, view) alone."""

from __future__ import annotations

import random
from functools import partial

from PIL import Image

from unifashion_pl.arguments import choice
from unifashion_pl.data.formats import encode
from unifashion_pl.wardrobe.catalogue import VIEWS
from unifashion_pl.wardrobe.drawing import render_flat
from unifashion_pl.wardrobe.person import draw_figure, render_worn
from unifashion_pl.wardrobe.products import Product


def render_product(product: Product, view: str, size: int, key: str) -> Image.Image:
    """A square picture.

    Args:
        view: ``front``, ``hanger``, ``worn`` or ``detail``.
        key: the item; with the view it seeds pose, light, folds and backdrop, by itself what all views share: where the pattern lies
            and which word is printed.

    Raises:
        ValueError: unknown view.
    """
    rng, fabric = random.Random(f"{key}/{view}"), random.Random(f"{key}/fabric")
    if choice(view, "view", VIEWS) == "worn":
        return render_worn(product, size, size, draw_figure(rng), rng, fabric).image
    if view == "detail":
        large = render_flat(product, size * 3 // 2, size * 3 // 2, rng, fabric)[0]
        left = size // 4 + rng.randint(-size // 16, size // 16)
        return large.crop((left, size // 6, left + size, size // 6 + size))
    return render_flat(product, size, size, rng, fabric, on_hanger=view == "hanger")[0]


encode_jpeg = partial(encode, kind="JPEG", quality=92, subsampling=0)
