"""Filters of Qdrant let through what SQL lets through, rows without a value among them."""

from __future__ import annotations

import random
import sqlite3
from typing import Any

import pytest
from qdrants import local

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.gallery.qdrant_filter import filter_of
from unifashion_pl.gallery.where import NUMBER, TEXT, Column, clause, condition

ROWS: list[tuple[Any, ...]] = [
    (price, title) for price in (None, -1, 0, 2.5, 3, 50) for title in (None, "", "silk", "Silk top", "50%_[x]", "it's é")
]
SQL = {"price": Column("c0", NUMBER), "title": Column("c1", TEXT)}
PATHS = {"price": Column("columns.price", NUMBER), "title": Column("columns.title", TEXT)}


@pytest.fixture(scope="module")
def client() -> Any:
    found = local()
    from qdrant_client import models

    found.create_collection("x", vectors_config={})
    points = []
    for number, row in enumerate(ROWS):
        columns = {name: value for name, value in zip(PATHS, row) if value is not None}
        points.append(models.PointStruct(id=number, vector={}, payload={"columns": columns}))
    found.upsert("x", points)
    return found


@pytest.fixture(scope="module")
def base() -> sqlite3.Connection:
    found = sqlite3.connect(":memory:")
    found.execute("CREATE TABLE items (key INTEGER PRIMARY KEY, c0, c1)")
    found.executemany("INSERT INTO items VALUES (?, ?, ?)", [(i, *row) for i, row in enumerate(ROWS)])
    return found


def assert_same(text: str, client: Any, base: sqlite3.Connection) -> int:
    points, _ = client.scroll("x", filter_of(clause(text, PATHS)), limit=1000)
    sql, values = condition(text, SQL)
    expected = [key for (key,) in base.execute(f"SELECT key FROM items WHERE {sql} ORDER BY key", values)]
    assert sorted(point.id for point in points) == expected, text
    return len(expected)


@pytest.mark.parametrize(
    "text",
    [
        "price == None",
        "not price == None",
        "title != None and not (price != None)",
        "price != 3",
        "not price != 3",
        "0 <= price < 50",
        "not 0 <= price < 50",
        "title in ('silk', 'x')",
        "title not in ['silk', \"it's é\"]",
        "price in {0, 2.5}",
        "not price in (0, 3)",
        "price in ()",
        "price not in ()",
        "'ilk' in title",
        "'%_[' in title",
        "'' in title",
        "not '' in title",
        "'é' not in title",
        "not (title == 'silk' and price > 2)",
        "not (title == 'silk' or not price > 2)",
        "title == ''",
    ],
)
def test_a_filter_lets_through_what_sql_does(text: str, client: Any, base: sqlite3.Connection) -> None:
    assert_same(text, client, base)


def test_random_filters_let_through_what_sql_does(client: Any, base: sqlite3.Connection) -> None:
    chance = random.Random(0)

    def written(depth: int) -> str:
        if depth == 0:
            number = f"price {chance.choice(['==', '!=', '<', '<=', '>', '>='])} {chance.choice([-1, 0, 2.5, 3])}"
            words = f"title {chance.choice(['==', '!='])} {chance.choice(['None', repr('silk'), repr('')])}"
            return chance.choice([number, words, f"{chance.choice('sSx')!r} in title", "price in (0, 3)"])
        text = "(" + chance.choice([" and ", " or "]).join(written(depth - 1) for _ in range(2)) + ")"
        return chance.choice([text, f"(not {text})"])

    found = [assert_same(written(chance.randrange(4)), client, base) for _ in range(300)]
    assert sum(0 < number < len(ROWS) for number in found) > 150


@pytest.mark.parametrize(
    ("text", "said"), [("title < 'm'", "which texts come before"), ("price == 9007199254740993", "up to 2")]
)
def test_what_qdrant_cannot_be_asked_is_said(text: str, said: str) -> None:
    local()
    with pytest.raises(ArgumentError, match=said):
        filter_of(clause(text, PATHS))
