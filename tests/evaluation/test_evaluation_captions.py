"""Plain-word checks of captions."""

from __future__ import annotations

import pytest

from unifashion_pl.evaluation.captions import COLOURS, first_mention, word_accuracy


def test_first_mention() -> None:
    assert first_mention("Dresses in dark navy, white trim", COLOURS) == "navy"
    assert first_mention("a coloured thing", ["red"]) is None
    assert first_mention("off-white shirt", ["white", "shirt"]) == "shirt"


def test_word_accuracy_and_its_chance() -> None:
    ours, chance = word_accuracy("colour", [("red", "red"), (None, "red"), ("blue", "green"), ("red", None)], 3)
    assert (ours.value, ours.n, ours.dropped) == (pytest.approx(100 / 3), 3, {"reference names none": 1})
    assert chance.value == pytest.approx(200 / 3)
    assert chance.protocol == ours.protocol + "/chance"
