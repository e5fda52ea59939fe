"""BLEU, ROUGE-L and CIDEr-D of tokens against what pycocoevalcap printed."""

from __future__ import annotations

import numpy as np
import pytest

from unifashion_pl.metrics.coco.captions import bleu, cider_d, common_subsequence, rouge_l
from unifashion_pl.metrics.coco.java import JavaTools

SETS = ["a", "b", "b_unifashion_release", "single", "empty"]
NO_JAVA = JavaTools(None, None, None)


def tokens_of(case):
    return [c["hypothesis_tokens"] for c in case["cases"]], [c["reference_tokens"] for c in case["cases"]]


@pytest.mark.parametrize("name", SETS)
def test_pure_functions_equal_pycocoevalcap(examples, name):
    case = examples["captions"][name]
    hypotheses, references = tokens_of(case)
    corpus = case["corpus"]
    assert bleu(hypotheses, references) == pytest.approx([corpus[f"BLEU-{n}"] for n in range(1, 5)], abs=1e-6)
    rouge, cider = rouge_l(hypotheses, references), cider_d(hypotheses, references)
    assert np.mean(rouge) == pytest.approx(corpus["ROUGE-L"], abs=1e-6)
    assert np.mean(cider) == pytest.approx(corpus["CIDEr"], abs=1e-6)
    for i, item in enumerate(case["cases"]):
        assert bleu([hypotheses[i]], [references[i]])[3] == pytest.approx(item["BLEU-4"], abs=1e-6)
        assert (rouge[i], cider[i]) == pytest.approx((item["ROUGE-L"], item["CIDEr"]), abs=1e-6)


def test_cider_of_batches_is_another_number(examples):
    hypotheses, references = tokens_of(examples["captions"]["a"])
    wrong = [np.mean(cider_d(hypotheses[s], references[s])) for s in (slice(0, 2), slice(2, 4))]
    expected = examples["cider_batches"]
    assert wrong == pytest.approx([expected["first_two"], expected["last_two"]], abs=1e-6)
    assert np.mean(cider_d(hypotheses, references)) == pytest.approx(expected["whole"], abs=1e-6)


def test_common_subsequence_equals_the_table():
    generator = np.random.default_rng(0)
    for _ in range(20):
        a, b = generator.integers(0, 4, 9).tolist(), generator.integers(0, 4, 7).tolist()
        table = np.zeros((10, 8), dtype=int)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
        assert common_subsequence(a, b) == table[-1, -1]
