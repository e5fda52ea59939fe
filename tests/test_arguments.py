"""Requests become plain values, or a sentence."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import torch

from unifashion_pl import arguments
from unifashion_pl.arguments import ArgumentError, is_array, rows_of

NOT_WHOLE = [
    1.0,
    1.5,
    math.nan,
    "1",
    "",
    b"1",
    True,
    np.True_,
    torch.tensor(True),
    None,
    1j,
    Decimal(1),
    Fraction(1),
    np.float32(1),
    [1, 2],
]


@pytest.mark.parametrize(
    "value", [3, np.int8(3), np.uint64(3), np.array(3), np.array([[3]]), torch.tensor(3), torch.tensor([3])]
)
def test_whole_numbers_of_every_kind_are_python_s(value: object) -> None:
    for found in (arguments.whole(value, "k"), arguments.count(value, "k"), *arguments.seeds(value)):  # type: ignore[arg-type]
        assert type(found) is int
        assert found == 3
    assert arguments.identifier(value) == "3"  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NOT_WHOLE)
def test_what_is_no_whole_number_is_told(value: object) -> None:
    with pytest.raises(ArgumentError, match="k is .* expected a whole number"):
        arguments.count(value, "k")


def test_refusals_are_of_both_of_python_s_kinds() -> None:
    for kind in (ValueError, TypeError):
        with pytest.raises(kind, match="k is 0, expected at least 1"):
            arguments.count(0, "k")


@pytest.mark.parametrize("value", [2, 2.0, np.float16(2), np.int64(2), torch.tensor(2.0), np.array([2.0])])
def test_numbers_of_every_kind_are_floats(value: object) -> None:
    found = arguments.number(value, "guidance")
    assert type(found) is float
    assert found == 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), "2", None, True, [1.0, 2.0], 10**400, 2j])
def test_what_is_no_finite_number_is_told(value: object) -> None:
    with pytest.raises(ArgumentError, match="guidance is .*, expected a finite number"):
        arguments.number(value, "guidance")


def test_ids_of_every_kind_are_texts() -> None:
    mixed = [1, "1.0", Path("a/b.jpg"), np.int64(-4), np.str_("x"), UUID(int=0)]
    assert arguments.identifiers(mixed) == ["1", "1.0", str(Path("a/b.jpg")), "-4", "x", "00000000-0000-0000-0000-000000000000"]
    assert arguments.identifiers("abc") == ["abc"]
    assert arguments.identifiers({"k": 1}.keys()) == ["k"]
    assert arguments.identifiers(torch.tensor([1, 2])) == ["1", "2"]
    assert arguments.identifiers(()) == arguments.identifiers(np.array([])) == []


@pytest.mark.parametrize("value", [1.0, True, np.False_, None, b"a", object(), ["a"], math.nan, torch.tensor(1.0), "\ud800"])
def test_what_is_no_id_is_told(value: object) -> None:
    with pytest.raises(ArgumentError, match="an id is .*, expected a text, a path or a whole number|holds half a character"):
        arguments.identifier(value)  # type: ignore[arg-type]


def test_texts() -> None:
    assert arguments.text_list("red") == arguments.text_list(np.array("red")) == arguments.text_list(iter(["red"])) == ["red"]
    for wrong, said in (
        (None, "got NoneType"),
        (3, "got int"),
        ([None], "got NoneType; no text is ''"),
        ([], "is empty"),
        (b"a", "got bytes"),
    ):
        with pytest.raises(ArgumentError, match=said):
            arguments.text_list(wrong)  # type: ignore[arg-type]


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(ArgumentError) as found:
        arguments.count("x" * 9000, "k")
    assert len(str(found.value)) < 200


def test_one_of_a_kind_goes_with_all_of_the_other() -> None:
    pictures = [object() for _ in range(3)]
    rows = rows_of({"image": pictures[:1], "text": ["a", "b"]})
    assert [row["image"] is pictures[0] for row in rows] == [True, True]
    assert [row["text"] for row in rows] == ["a", "b"]
    assert rows_of({"i": ["p", "q"], "t": ["a"]}) == [{"i": "p", "t": "a"}, {"i": "q", "t": "a"}]
    assert rows_of({"i": ["p"], "t": ["a"]}) == [{"i": "p", "t": "a"}]
    with pytest.raises(ValueError, match="2 of images, 3 of texts: expected equally many, or one of each kind"):
        rows_of({"images": ["p", "q"], "texts": ["a", "b", "c"]})


def test_arrays_are_those_of_numpy_and_of_torch() -> None:
    assert [is_array(value) for value in (np.zeros(2), torch.zeros(2), [0.0], "a", None)] == [True, True, False, False, False]
