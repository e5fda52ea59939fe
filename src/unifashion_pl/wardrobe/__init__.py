"""The procedural wardrobe: a toy catalogue (and called so) in the raw layouts of the real datasets."""

from unifashion_pl.wardrobe.catalogue import SIZES, WardrobeSpec
from unifashion_pl.wardrobe.products import Product, make_product
from unifashion_pl.wardrobe.render import render_product
from unifashion_pl.wardrobe.texts import describe, modifying_texts
from unifashion_pl.wardrobe.write import write_wardrobe

__all__ = [
    "SIZES",
    "Product",
    "WardrobeSpec",
    "describe",
    "make_product",
    "modifying_texts",
    "render_product",
    "write_wardrobe",
]
