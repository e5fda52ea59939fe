"""Texts are true of what is drawn."""

from __future__ import annotations

import random

import pytest

from unifashion_pl.wardrobe import (
    describe,
    make_product,
    modifying_texts,
)
from unifashion_pl.wardrobe.products import CATEGORIES


def test_captions_name_colour_category_and_pattern() -> None:
    for i in range(200):
        product = make_product(0, i)
        for style in ("fashion200k", "fashiongen", "fashioniq"):
            text = describe(product, style, random.Random(i)).lower()
            assert product.colour in text
            assert product.category in text
            assert (product.second in text) or style == "fashion200k"
            others = {c for c in CATEGORIES if c != product.category and c not in ("shirt",)}
            assert not any(f" {c} " in f" {text} " for c in others)
        words = len(describe(product, "fashion200k", random.Random(i)).split())
        assert 3 <= words <= 6
    with pytest.raises(ValueError, match="known are fashion200k"):
        describe(make_product(0, 0), "haiku", random.Random(0))


def test_modifying_texts_refuse_what_cannot_be_said() -> None:
    a = make_product(0, 0, "dress")
    with pytest.raises(ValueError, match="same attributes"):
        modifying_texts(a, a, random.Random(0))
    with pytest.raises(ValueError, match="inside a category"):
        modifying_texts(a, make_product(0, 1, "shirt"), random.Random(0))
