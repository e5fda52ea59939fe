"""What a vocabulary makes of users' texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.backbone.tokenizer import scripts_of
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


def test_training_may_have_texts_that_say_nothing(backbone: QFormerBackbone) -> None:
    assert backbone.tokenize(["", "красное", "red"]).ids.shape == (3, 3)
