from __future__ import annotations

from typing import Any

from unifashion_pl.datamodules.checks import Duplicates, SplitReport, Unusable


def split(**changes: Any) -> SplitReport:
    values = {"name": "fashioniq/val", "kind": "queries", "expected": 2017, "usable": 2009, "published": 2017, **changes}
    expected, usable = values["expected"], values["usable"]
    bad = [Unusable(f"B{i:09d}", "reference", "empty file", 1) for i in range(expected - usable)]
    groups = {"dress": {"expected": expected, "usable": usable}}
    return SplitReport(**values, groups=groups, unusable=bad, notes=["a note"])


def test_the_size_says_full_part_or_other() -> None:
    assert split().size == "as many as published"
    assert split(published=None).size == ""
    assert split(published=2018).size == "published are 2,018"
    assert split(published=2000).size == "published are 2,000"
    assert split(expected=20, usable=20).size == "a part: 20 of 2,017 published (0.99 %)"


def test_effects_are_of_evaluation_splits_that_lose_something() -> None:
    assert split().effects == ["composed retrieval: queries of dress: n 2,009 of 2,017"]
    assert split(name="fashioniq/train").effects == []
    assert split(usable=2017).effects == []


def test_duplicates_across_are_those_in_training_and_evaluation() -> None:
    assert Duplicates(["a", "b"], ["d/train", "d/val"]).across
    assert not Duplicates(["a", "b"], ["d/train"]).across
    assert not Duplicates(["a", "b"], ["d/test-paired", "d/test-unpaired"]).across
