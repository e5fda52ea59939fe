"""Segments written anew."""

from __future__ import annotations

import numpy as np
import pytest
from test_gallery_segments import tokens

from unifashion_pl.gallery import stored
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.rows import IndexRows
from unifashion_pl.gallery.scan import Corpus
from unifashion_pl.gallery.segments import Segment, segment_from
from unifashion_pl.gallery.stored import packed, worth_packing


def made(sizes: list[int]) -> tuple[IndexRows, dict[int, Segment]]:
    """Every second image has a caption; of the last segment both sets are equal."""
    rows, held = IndexRows(), {}
    for number, size in enumerate(sizes):
        vectors = {"reference": tokens(size, 3, seed=number), "captions": tokens((size + 1) // 2, 1, seed=number)}
        vectors["target"] = vectors["reference"] if number == len(sizes) - 1 else tokens(size, 3, seed=50 + number)
        held[number] = segment_from(vectors, "fp16", None, 2)
        captioned = [i // 2 if i % 2 == 0 else -1 for i in range(size)]
        rows.add([(number, [IndexItem(f"{number}-{i}", "x" * (i % 2 == 0)) for i in range(size)], captioned)])
    return rows, held


@pytest.mark.parametrize("groups", [[[0], [1], [2]], [[0, 2], [1]], [[2, 0, 1]]])
def test_every_row_keeps_its_vectors(groups: list[list[int]]) -> None:
    rows, held = made([5, 4, 6])
    rows.remove([1, 2, 6, 14])
    before = Corpus(held, rows.live())
    every = np.arange(len(rows))
    expected = {name: before.floats(name, every) for name in ("reference", "target", "captions")}
    new, places = packed(rows.live(), held, groups)
    rows.settle(places)
    after = Corpus(new, rows.live())
    assert sum(segment.rows for segment in new.values()) == len(rows) == 11
    for name, values in expected.items():
        assert np.array_equal(after.floats(name, every), values)  # type: ignore[arg-type]
    asked = tokens(2, 1, seed=99)[:, 0]
    for wide in (False, True):
        assert np.array_equal(after.approximate("target", asked, wide), before.approximate("target", asked, wide))


def test_what_is_mostly_gone_or_small_and_many_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, held = made([4, 5, 6])
    assert worth_packing(rows, held) == []
    rows.remove([0, 1])
    assert worth_packing(rows, held) == [[0]]
    monkeypatch.setattr(stored, "MOST", 1)
    assert worth_packing(rows, held) == [[0], [1]]
    monkeypatch.setattr(stored, "SMALL", 1)
    assert worth_packing(rows, held) == [[0]]
