"""What a vocabulary makes of users' texts."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.backbone.words import readable, scripts_of
from unifashion_pl.generation import PromptEncoder


@pytest.mark.parametrize(
    ("text", "says", "unknown", "spelled"),
    [
        ("a long red dress, size 38", True, (), ()),
        ("has a – longer – sleeve’s end …", True, (), ()),
        ("red платье", True, ("платье",), ()),
        ("dress 🔥", True, ("🔥",), ()),
        ("красное платье", False, ("красное", "платье"), ()),
        ("zzqx", True, (), ("zzqx",)),
        ("x" * 150, False, ("x" * 150,), ()),
        ("", False, (), ()),
        (" \n\t", False, (), ()),
        ("!!! ??? --- …", False, (), ()),
        ("Ünï-red", True, (), ()),
        ("7", True, (), ()),
    ],
)
def test_a_reading(
    backbone: QFormerBackbone, text: str, says: bool, unknown: tuple[str, ...], spelled: tuple[str, ...]
) -> None:
    found = backbone.reading_of(text)
    assert (found.says, found.unknown, found.spelled) == (says, unknown, spelled)


def test_a_text_encoder_of_bytes_reads_by_its_own_vocabulary(pipeline_folder: Path) -> None:
    encoder = PromptEncoder(source=str(pipeline_folder))
    assert encoder.reading_of("red").says
    assert not encoder.reading_of("красное").says
    assert not encoder.reading_of("!!").says


def test_scripts_are_named(backbone: QFormerBackbone) -> None:
    assert scripts_of(backbone.tokenizer) == "Latin"


def test_words_that_a_reader_has_not_are_named_and_the_rest_is_read(backbone: QFormerBackbone) -> None:
    with pytest.warns(UserWarning, match="not in this model's vocabulary, so not read: '赤'"):
        assert readable(["red 赤", "blue"], backbone) == ["red 赤", "blue"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert readable("red dress", backbone) == ["red dress"]
        assert readable(["赤", "!!!"]) == ["赤", "!!!"]  # nobody reads them
