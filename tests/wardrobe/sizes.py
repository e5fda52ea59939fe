"""How much the tests draw."""

from unifashion_pl.wardrobe import WardrobeSpec

SMALL = WardrobeSpec(
    products_train=6,
    products_val=4,
    views=2,
    image_size=32,
    fiq_train=4,
    fiq_val=4,
    fiq_gallery=8,
    tryon_train=2,
    tryon_test=2,
    tryon_size=(48, 64),
)
