"""Filters: what they mean, against Python's own evaluation of them, and everything that is no filter."""

from __future__ import annotations

import itertools
import random
import sqlite3

import pytest

from unifashion_pl.gallery.where import NUMBER, TEXT, Column, condition

COLUMNS = {"price": Column("c0", NUMBER), "size": Column("c1", TEXT), "list price": Column("c2", NUMBER)}
ROWS = [(p, s, p * 2) for p, s in itertools.product((1, 2.5, 49, 50, 51), ("S", "M", "it's"))]


def found(text: str) -> list[tuple[object, ...]]:
    base = sqlite3.connect(":memory:")
    base.execute("CREATE TABLE items (c0, c1, c2)")
    base.executemany("INSERT INTO items VALUES (?, ?, ?)", [*ROWS, (None, None, None)])
    sql, values = condition(text, COLUMNS)
    return sorted(base.execute(f"SELECT * FROM items WHERE {sql}", values).fetchall())


@pytest.mark.parametrize(
    "text",
    [
        "price < 50 and size == 'M'",
        "price<50 or size=='M'",
        "not price >= 50",
        "2 < price <= 50",
        "50 > price",
        "price != 50 and not (size == 'S' or price == 1)",
        "size in ('S', \"it's\")",
        "size not in ['S']",
        "price in {1, 2.5}",
        "'t' in size",
        "size < 'N'",
        "price > -3 and size != 'M'",
        "price == True",
        "price == 1.0",
    ],
)
def test_a_filter_means_what_it_means_in_python(text: str) -> None:
    expected = sorted(row for row in ROWS if eval(text, {"price": row[0], "size": row[1]}))
    assert found(text) == expected
    assert 0 < len(expected) < len(ROWS)


def test_random_filters_mean_what_they_mean_in_python() -> None:
    chance = random.Random(0)

    def written(depth: int) -> str:
        if depth == 0:
            sign = chance.choice(["==", "!=", "<", "<=", ">", ">="])
            return chance.choice([f"price {sign} {chance.choice([1, 2.5, 50])}", f"size {sign} '{chance.choice('SMX')}'"])
        word = chance.choice([" and ", " or "])
        text = "(" + word.join(written(depth - 1) for _ in range(2)) + ")"
        return chance.choice([text, f"(not {text})"])

    for _ in range(200):
        text = written(chance.randrange(4))
        assert found(text) == sorted(row for row in ROWS if eval(text, {"price": row[0], "size": row[1]})), text


def test_names_that_are_no_words_stand_in_backquotes_and_absent_values_are_found_by_none() -> None:
    assert found("`list price` == 100 and size == 'M'") == [(50, "M", 100)]
    assert found("price == None") == [(None, None, None)]
    assert len(found("price != None")) == len(ROWS)
    assert found("size == '`list price`'") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected comparisons of columns"),
        (None, "the filter is None"),
        ("price", "has 'price', expected comparisons"),
        ("price <", "cannot be read .SyntaxError."),
        ("price = 3", "cannot be read"),
        ("prize < 3", r"unknown column 'prize' \(did you mean .*price.*\?\); known are price, size, list price"),
        ("price < '50'", "'price', which holds numbers, with '50': write the number without quotes"),
        ("size == 38", "'size', which holds texts, with 38: write it in quotes, '38'"),
        ("size == M", "compares with the word M: write values in quotes, 'M'"),
        ("size in (1, 2)", "which holds texts, with 1"),
        ("size in ('S', None)", "with None"),
        ("3 in price", "in looks for a text in a text column"),
        ("price < None", "None goes with == and != alone"),
        ("price is None", "expected comparisons"),
        ("price + 1 < 3", "has 'price \\+ 1'"),
        ("__import__('os').system('x') == 1", "expected comparisons"),
        ("price < (lambda: 1)()", "expected comparisons"),
        ("(price := 3) < 4", "expected comparisons"),
        ("price == 1; DROP TABLE items", "cannot be read"),
        ("price == b'1'", "expected comparisons"),
        ("price == 1e999", "too large"),
        ("price == 99999999999999999999", "too large"),
        ("price == 1j", "expected comparisons"),
        ("price == '", "a quote ' that is not closed"),
        ("`list price < 3", "a quote ` that is not closed"),
        ("`nowhere` < 3", "unknown column 'nowhere'"),
        ("size == '\udcff'", "cannot be read"),
        ("not " * 60 + "price == 1", "nested more than 50 times"),
        ("(" * 300 + "price == 1" + ")" * 300, "cannot be read"),
        ("price == 1 or " * 500 + "price == 1", "at most 4,000"),
        ("price == 1\0", "cannot be read"),
        ("c0 == 1", "unknown column 'c0'"),
        ("1 == 1", "has '1'"),
        ("-size == 'x'", "expected comparisons"),
        ("price == - 'x'", "expected comparisons"),
        ("size == True", "with True: write it in quotes, 'True'"),
        ("size in (False,)", "with False: write it in quotes, 'False'"),
    ],
)
def test_what_is_no_filter_is_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        condition(text, COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        " " * 3900,
        "price < 50 and " * 250 + "prize < 3",
        "price < 50 or " * 250 + "price <",
        "x" * 3900 + " == 1",
        f"`{'x' * 3900}` == 1",
        f"`{'x' * 3900}` + 1 == 1",
        "size == " + "x" * 3900,
        f"price == '{'x' * 3900}'",
        f"'{'x' * 3900}' in price",
        f"'{'x' * 3900}",
        f"size == '{'x' * 3900}' and size < None",
        f"size == '{'x' * 3900}' and price < 1e999",
        "not " * 900 + "price == 1",
        "price == " + "9" * 3900,
        f"price == {'(1,' * 40}{'9' * 3000}{')' * 40}",
    ],
)
def test_a_refusal_says_no_more_than_the_beginning_of_a_long_filter(text: str) -> None:
    with pytest.raises(ValueError, match="the filter") as refused:
        condition(text, COLUMNS)
    assert len(str(refused.value)) < 500


def test_no_text_of_a_user_becomes_sql() -> None:
    sql, values = condition("size == \"x' OR 1=1 --\" and price in (1, 2) and 'q' in size", COLUMNS)
    assert sql == "((c1 = ?) AND (c0 IN (?, ?)) AND (instr(c1, ?) > 0))"
    assert values == ["x' OR 1=1 --", 1, 2, "q"]
