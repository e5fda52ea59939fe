"""Values as an index keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion_pl.gallery.items import check_lengths, picture_path, typed, values_of


def test_values_are_texts_and_numbers_of_any_kind() -> None:
    given = {"a": np.float32(0.5), "b": np.int64(3), "c": True, "d": "x", "e": None, "f": float("nan"), "g": torch.tensor(7)}
    assert values_of(given, "id") == {"a": 0.5, "b": 3, "c": 1, "d": "x", "e": None, "f": None, "g": 7}
    for wrong in ({"a": [1]}, {"a": b"x"}, {"a": 2**63}, {"a": float("inf")}, {3: "x"}, {" ": 1}, {"a`b": 1}):
        with pytest.raises(ValueError, match="expected a text"):
            values_of(wrong, "id")  # type: ignore[arg-type]


def test_a_column_whose_cells_are_all_numbers_holds_numbers() -> None:
    rows = [{"price": "9.50", "code": "0049", "n": "-3", "mixed": "4"}, {"price": "12", "code": "12", "mixed": "4a"}]
    first, second = typed(rows, {})
    assert first == {"price": 9.5, "code": "0049", "n": -3, "mixed": "4"}
    assert second == {"price": 12, "code": "12", "mixed": "4a"}
    assert typed([{"size": "38"}], {"size": "text"}) == [{"size": "38"}]
    with pytest.raises(ValueError, match="'price' of this index holds numbers, and the CSV has 'cheap'"):
        typed([{"price": "cheap"}], {"price": "number"})


def test_paths_become_whole_and_columns_have_to_be_as_long_as_images_are_many() -> None:
    assert picture_path(Path("a.png")) == str(Path("a.png").absolute())
    assert picture_path(Image.new("RGB", (1, 1))) is None
    check_lengths(2, {"ids": ["a", "b"], "captions": None})
    with pytest.raises(ValueError, match="2 images but 1 products"):
        check_lengths(2, {"products": ["p"]})
