"""Drawn persons: what their masks do not tell."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from unifashion_pl.wardrobe import make_product
from unifashion_pl.wardrobe.person import UPPER, draw_figure, render_worn
from unifashion_pl.wardrobe.tryon import repaint_mask


def test_masks_do_not_tell_what_is_worn() -> None:
    plain = make_product(0, 1, "top")
    masks = []
    for category in UPPER:
        for sleeve in ("none", "short", "long"):
            product = replace(plain, category=category, sleeve=sleeve, neckline="round", buttons=0)
            worn = render_worn(product, 96, 128, draw_figure(random.Random(1)), random.Random(2), random.Random(3), upper=True)
            masks.append(repaint_mask(worn))
            assert (masks[-1][worn.garment > 0.5] == 255).all()
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
