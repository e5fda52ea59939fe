"""METEOR and CoreNLP's tokeniser, run where Java and the jars are."""

from __future__ import annotations

import numpy as np
import pytest

from unifashion_pl.metrics.caption_scores import tokenize_captions
from unifashion_pl.metrics.coco.java import JavaTools, meteor_process, ptb_java, summable

SETS = ["a", "b", "b_unifashion_release", "single", "empty"]
NO_JAVA = JavaTools(None, None, None)


def tokens_of(case):
    return [c["hypothesis_tokens"] for c in case["cases"]], [c["reference_tokens"] for c in case["cases"]]


@pytest.mark.parametrize("name", SETS)
def test_meteor_is_the_corpus_score_of_the_jar(examples, java, name):
    case = examples["captions"][name]
    with meteor_process(java) as process:
        lines = [process.statistics(h, r) for h, r in zip(*tokens_of(case))]
        segments, corpus = process.evaluate(lines)
        again = process.corpus_scores([np.sum(summable(lines), axis=0)])
    assert corpus == pytest.approx(case["corpus"]["METEOR"], abs=1e-6)
    assert np.mean(segments) == pytest.approx(case["meteor_segment_mean"], abs=1e-6)
    assert again == pytest.approx([corpus], abs=1e-9)


def test_recorded_output_is_still_that_of_the_java_program(java, java_tokens):
    texts = [text for text, _ in java_tokens]
    assert tokenize_captions(texts, "ptb-java", java) == [tokens for _, tokens in java_tokens]


def test_line_breaks_do_not_shift_captions_in_java(java):
    assert ptb_java(["red\u2028dress\rlong", "", "blue"], java) == ["red dress long", "", "blue"]


def test_missing_java_is_said():
    with pytest.raises(RuntimeError, match="needs Java"):
        tokenize_captions(["red"], "ptb-java", NO_JAVA)
