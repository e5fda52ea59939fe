"""The tokeniser in Python against recorded output of CoreNLP's."""

from __future__ import annotations

import pytest

from unifashion_pl.metrics.caption_scores import tokenize_captions
from unifashion_pl.metrics.coco.java import JavaTools, one_line

SETS = ["a", "b", "b_unifashion_release", "single", "empty"]
NO_JAVA = JavaTools(None, None, None)


def test_worked_pairs(examples):
    for text, tokens in examples["tokens"]:
        assert tokenize_captions([text]) == [tokens]


def test_worked_captions(examples):
    for name in SETS:
        for case in examples["captions"][name]["cases"]:
            assert tokenize_captions([case["hypothesis"], *case["references"]]) == [
                case["hypothesis_tokens"],
                *case["reference_tokens"],
            ]


def test_recorded_output_of_the_java_program(java_tokens):
    for text, tokens in java_tokens:
        assert tokenize_captions([text]) == [tokens]


@pytest.mark.parametrize("mark", ["\r", "\v", "\f", "\u2028", "\u2029", "\n", "\r\n"])
def test_line_breaks_do_not_shift_captions(mark):
    assert one_line(f"red{mark}dress") == "red dress"
    assert tokenize_captions([f"red{mark}dress", "blue"]) == ["red dress", "blue"]
