"""Products."""

from __future__ import annotations

from unifashion_pl.wardrobe import (
    make_product,
)
from unifashion_pl.wardrobe.products import CATEGORIES, is_valid


def test_products_depend_on_seed_and_index_alone_and_are_valid() -> None:
    assert make_product(0, 7) == make_product(0, 7)
    drawn = [make_product(0, i) for i in range(300)]
    assert all(is_valid(p) for p in drawn)
    assert {p.category for p in drawn} == set(CATEGORIES)
    assert drawn != [make_product(1, i) for i in range(300)]
