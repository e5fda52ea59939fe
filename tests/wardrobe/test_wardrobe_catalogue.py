"""Which products, views and triplets a wardrobe holds."""

from __future__ import annotations

from collections import Counter

from unifashion_pl.wardrobe import (
    Product,
)
from unifashion_pl.wardrobe.catalogue import SIZES, fiq_split
from unifashion_pl.wardrobe.products import CATEGORIES, differences


def test_triplets_target_once_differ_in_one_to_three_attributes_and_are_unambiguous() -> None:
    taken: set[Product] = set()
    train = fiq_split(0, "train", "shirt", 80, 0, taken)
    val = fiq_split(0, "val", "shirt", 40, 60, taken)
    assert not set(train.products) & set(val.products)
    for part in (train, val):
        assert len(set(part.products)) == len(part.products)
        assert max(Counter(t.target for t in part.triplets).values()) == 1
        for t in part.triplets:
            changed = differences(part.products[t.reference], part.products[t.target])
            assert 1 <= len(changed) <= 3
            if "colour" in changed:
                assert part.products[t.target].colour in " ".join(t.texts)


def test_sizes_name_what_they_promise() -> None:
    assert SIZES["tiny"].fiq_gallery == 12
    assert SIZES["demo"].products_val // len(CATEGORIES) >= 100
