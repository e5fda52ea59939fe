"""The procedural wardrobe: a toy catalogue (and called so) in the raw layouts of the real datasets."""

from unifashion_pl.wardrobe.catalogue import SIZES as SIZES
from unifashion_pl.wardrobe.catalogue import WardrobeSpec as WardrobeSpec
from unifashion_pl.wardrobe.products import Product as Product
from unifashion_pl.wardrobe.products import make_product as make_product
from unifashion_pl.wardrobe.render import render_product as render_product
from unifashion_pl.wardrobe.texts import describe as describe
from unifashion_pl.wardrobe.texts import modifying_texts as modifying_texts
from unifashion_pl.wardrobe.write import write_wardrobe as write_wardrobe
