"""Rows of an index: kinds of columns, facets, words, and another database that follows what was done."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.rows import IndexRows, Live, follow

ITEMS = [
    IndexItem("a", "a red dress", "/x/a.png", "p", {"price": 10, "maker": "Änne"}),
    IndexItem("b", "", None, "p", {"price": 2.5}),
    IndexItem("c", "a blue dress of silk", None, None, {"maker": "Otto", "size": "38"}),
    IndexItem("d"),
]


@pytest.fixture
def rows() -> IndexRows:
    made = IndexRows()
    made.add([(0, ITEMS[:2], [0, -1]), (1, ITEMS[2:], [0, -1])])
    return made


def test_rows_come_back_as_they_were(rows: IndexRows) -> None:
    assert rows.ids() == list("abcd")
    assert list(rows.items([0, 1, 2, 3]).values()) == ITEMS
    assert rows.columns() == {"price": (0, "number"), "maker": (1, "text"), "size": (2, "text")}
    live = rows.live()
    assert (live.keys.tolist(), live.segments.tolist()) == ([0, 1, 2, 3], [0, 0, 1, 1])
    assert (live.places.tolist(), live.captioned.tolist()) == ([0, 1, 0, 1], [0, -1, 0, -1])
    assert rows.keys_of(["c", "a", "nobody"]) == {"a": 0, "c": 2}
    assert rows.named([1, 2], "product") == {1: "p", 2: "c"}
    rows.remove([1])
    assert rows.ids() == list("acd")
    assert rows.live().keys.tolist() == [0, 2, 3]


def test_more_ids_than_a_statement_binds() -> None:
    made = IndexRows()
    made.add([(0, [IndexItem(str(i)) for i in range(2500)], [-1] * 2500)])
    assert made.keys_of([str(i) for i in range(2600)]) == {str(i): i for i in range(2500)}
    assert len(made.items(list(range(2500)))) == 2500


def test_a_wrong_value_adds_nothing(rows: IndexRows) -> None:
    for wrong, said in (
        ({"price": "cheap"}, "'price' holds numbers, and 'e' has 'cheap'"),
        ({"maker": 3}, "'maker' holds texts"),
        ({"id": "x"}, "given as ids"),
    ):
        with pytest.raises(ValueError, match=said):
            rows.add([(2, [IndexItem("e", columns={"new": 1, **wrong})], [-1])])
    assert rows.ids() == list("abcd")
    assert "new" not in rows.columns()
    with pytest.raises(sqlite3.IntegrityError):
        rows.add([(2, [IndexItem("e"), IndexItem("a")], [-1, -1])])
    assert rows.ids() == list("abcd")


def test_facets_count_what_a_filter_lets_through(rows: IndexRows) -> None:
    assert rows.facets("product") == {"p": 2, "c": 1, "d": 1}
    assert rows.facets("maker", "price > 5") == {"Änne": 1}
    assert rows.facets("price", most=1) == {2.5: 1}
    with pytest.raises(
        ValueError, match=r"unknown column 'makr' \(did you mean maker\?\); known are id, product, caption, price, maker, size"
    ):
        rows.facets("makr")
    assert rows.matching("maker == 'Otto' or price == 2.5").tolist() == [1, 2]


def test_words_find_rows_by_bm25(rows: IndexRows) -> None:
    assert list(rows.words("SILK")) == [2]
    assert list(rows.words("anne!")) == [0]
    both = rows.words("red silk dress")
    assert set(both) == {0, 2}
    assert max(both.values()) == pytest.approx(1)
    assert rows.words("nothing") == rows.words('" OR *') == rows.words("") == {}
    rows.remove([2])
    assert rows.words("silk") == {}


def test_another_database_follows(rows: IndexRows, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    rows.base.backup(other)
    rows.settle()
    rows.remove([0])
    rows.add([(5, [IndexItem("e", "velvet", columns={"colour": "red", "price": 1})], [-1])])
    follow(other, rows)
    same = IndexRows(other)
    assert same.items(same.live().keys.tolist()) == rows.items(rows.live().keys.tolist())
    assert same.words("velvet") == {4: 1.0}
    assert same.words("red") == {4: 1.0}
    assert same.columns() == rows.columns()
    assert same.next_key == rows.next_key


def test_positions_of_segments_are_found_whatever_their_order() -> None:
    segments = np.array([2, 2, 0, 5, 0, 2])
    live = Live(np.arange(6), segments, np.zeros(6, np.int64), np.full(6, -1))
    assert {number: where.tolist() for number, where in live.of_segments.items()} == {0: [2, 4], 2: [0, 1, 5], 5: [3]}
    assert Live(*[np.empty(0, np.int64)] * 4).of_segments == {}
