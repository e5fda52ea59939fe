"""Whose line it is."""

from __future__ import annotations

import json

import pytest

import unifashion_pl.origin
from unifashion_pl.arguments import count
from unifashion_pl.origin import is_ours, raised_here


def test_errors_are_told_apart_by_the_line_that_raised_them() -> None:
    with pytest.raises(ValueError) as ours:
        count(0, "k")
    with pytest.raises(ValueError) as theirs:
        json.loads("{")
    assert raised_here(ours.value)
    assert not raised_here(theirs.value)
    assert not raised_here(ValueError("never raised"))


def test_files_of_the_library_and_its_datamodules_are_ours() -> None:
    from unifashion_pl import datamodules

    assert is_ours(unifashion_pl.origin.__file__)
    assert is_ours(f"{next(iter(datamodules.__path__))}/wardrobe.py")
    assert not is_ours(pytest.__file__)
