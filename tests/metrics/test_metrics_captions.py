from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from unifashion_pl.metrics.caption_scores import CaptionScores, score_captions, tokenize_captions
from unifashion_pl.metrics.coco.captions import bleu, cider_d, common_subsequence, rouge_l
from unifashion_pl.metrics.coco.java import JavaTools, meteor_process, one_line, ptb_java, summable

SETS = ["a", "b", "b_unifashion_release", "single", "empty"]
NO_JAVA = JavaTools(None, None, None)


def tokens_of(case):
    return [c["hypothesis_tokens"] for c in case["cases"]], [c["reference_tokens"] for c in case["cases"]]


def filled(case, metric: CaptionScores, batch: int = 100) -> CaptionScores:
    cases = case["cases"]
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        metric.update([c["hypothesis"] for c in part], [c["references"] for c in part], [c["id"] for c in part])
    return metric


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


class TestTokenizer:
    def test_worked_pairs(self, examples):
        for text, tokens in examples["tokens"]:
            assert tokenize_captions([text]) == [tokens]

    def test_worked_captions(self, examples):
        for name in SETS:
            for case in examples["captions"][name]["cases"]:
                assert tokenize_captions([case["hypothesis"], *case["references"]]) == [
                    case["hypothesis_tokens"],
                    *case["reference_tokens"],
                ]

    def test_recorded_output_of_the_java_program(self, java_tokens):
        for text, tokens in java_tokens:
            assert tokenize_captions([text]) == [tokens]

    def test_recorded_output_is_still_that_of_the_java_program(self, java, java_tokens):
        texts = [text for text, _ in java_tokens]
        assert tokenize_captions(texts, "ptb-java", java) == [tokens for _, tokens in java_tokens]

    @pytest.mark.parametrize("mark", ["\r", "\v", "\f", "\u2028", "\u2029", "\n", "\r\n"])
    def test_line_breaks_do_not_shift_captions(self, mark):
        assert one_line(f"red{mark}dress") == "red dress"
        assert tokenize_captions([f"red{mark}dress", "blue"]) == ["red dress", "blue"]

    def test_line_breaks_do_not_shift_captions_in_java(self, java):
        assert ptb_java(["red\u2028dress\rlong", "", "blue"], java) == ["red dress long", "", "blue"]

    def test_missing_java_is_said(self):
        with pytest.raises(RuntimeError, match="needs Java"):
            tokenize_captions(["red"], "ptb-java", NO_JAVA)


class TestScores:
    @pytest.mark.parametrize("name", ["a", "b"])
    def test_coco(self, examples, name):
        case = examples["captions"][name]
        metric = filled(case, CaptionScores(tokenizer="ptb-py"))
        values = metric.compute()
        expected = {k: v for k, v in case["corpus"].items() if k != "METEOR"}
        assert {k: values[k] for k in expected} == pytest.approx(expected, abs=1e-6)
        assert values["METEOR"] is None or values["METEOR"] == pytest.approx(case["corpus"]["METEOR"], abs=1e-6)
        assert filled(case, CaptionScores(tokenizer="ptb-py", meteor=False), batch=1).compute()["CIDEr"] == values["CIDEr"]

    def test_release_protocol_swaps_and_cuts(self, examples):
        metric = filled(examples["captions"]["b"], CaptionScores("unifashion_release", "ptb-py", meteor=False))
        expected = {k: v for k, v in examples["captions"]["b_unifashion_release"]["corpus"].items() if k != "METEOR"}
        values = metric.compute()
        assert {k: values[k] for k in expected} == pytest.approx(expected, abs=1e-6)
        cider = next(r for r in metric.records(resamples=20) if r.metric == "CIDEr")
        assert "not in the released script" in cider.implementation

    def test_without_java_meteor_is_none_and_the_reason_is_given(self, examples):
        case = examples["captions"]["a"]
        table = score_captions(
            {c["id"]: c["hypothesis"] for c in case["cases"]}, {c["id"]: c["references"] for c in case["cases"]}, tools=NO_JAVA
        )
        assert table.scores()["METEOR"] is None
        assert table.tokenizer == "ptb-py"
        assert "needs Java" in table.meteor_note
        metric = filled(case, CaptionScores(java="no-such-java"))
        record = next(r for r in metric.records(resamples=20) if r.metric == "METEOR")
        assert (record.value, record.interval) == (None, None)
        assert "needs Java" in record.implementation
        assert metric.details()["tokenizer"] == "ptb-py"

    def test_records_and_predictions(self, examples):
        metric = filled(examples["captions"]["a"], CaptionScores(tokenizer="ptb-py", meteor=False))
        records = {r.metric: r for r in metric.records(resamples=300, seed=1)}
        assert records["BLEU-4"].protocol == "coco(text=description,tokenizer=ptb-py)"
        assert records["CIDEr"].interval.method.endswith("IDF of the full set")
        for name in ("BLEU-1", "ROUGE-L", "CIDEr"):
            assert records[name].interval.low <= records[name].value <= records[name].interval.high
        lines = metric.per_caption()
        cases = examples["captions"]["a"]["cases"]
        assert [line["id"] for line in lines] == [c["id"] for c in cases]
        for line, case in zip(lines, cases):
            assert line["references"] == case["references"]
            assert [line[k] for k in ("BLEU-4", "ROUGE-L", "CIDEr")] == pytest.approx(
                [case[k] for k in ("BLEU-4", "ROUGE-L", "CIDEr")], abs=1e-6
            )

    def test_meteor_interval(self, examples, java):
        metric = filled(examples["captions"]["a"], CaptionScores())
        record = next(r for r in metric.records(resamples=100) if r.metric == "METEOR")
        assert record.interval.low < record.value < record.interval.high

    def test_empty_hypothesis_scores_zero_and_is_counted(self):
        metric = CaptionScores(tokenizer="ptb-py", meteor=False)
        metric.update(["", "red dress"], ["red dress", "red dress"], ["x", "y"])
        assert metric.details()["empty"] == 1
        assert metric.per_caption()[0]["ROUGE-L"] == metric.per_caption()[0]["CIDEr"] == 0.0

    def test_errors_name_ids(self):
        metric = CaptionScores(tokenizer="ptb-py", meteor=False)
        metric.update(["red", "blue"], ["a red dress", "..."], ["x", "y"])
        with pytest.raises(ValueError, match="references without tokens: y"):
            metric.compute()
        with pytest.raises(ValueError, match="without reference: z"):
            score_captions({"z": "red"}, {}, tokenizer="ptb-py", meteor=False)
        twice = CaptionScores()
        twice.update(["red", "blue"], ["r", "r"], ["x", "x"])
        with pytest.raises(ValueError, match="'x' was given twice with different hypothesis"):
            twice.compute()
        several = CaptionScores("unifashion_release", "ptb-py", meteor=False)
        several.update(["red"], [["r", "s"]], ["x"])
        with pytest.raises(ValueError, match="several for x"):
            several.compute()
        with pytest.raises(ValueError, match="unknown protocol"):
            CaptionScores("nltk")

    def test_equal_duplicates_count_once(self, examples):
        case = examples["captions"]["a"]
        once = filled(case, CaptionScores(tokenizer="ptb-py", meteor=False)).compute()
        twice = filled(case, filled(case, CaptionScores(tokenizer="ptb-py", meteor=False)), batch=3).compute()
        assert once == twice


@pytest.mark.real_data
def test_fashion_iq_captions(java):
    """Fashion-IQ annotations: tokeniser port against Java, and the published scores of 200 dress val pairs."""
    folder = os.environ.get("UNIFASHION_SHARED_DATA")
    found = sorted(Path(folder).rglob("cap.*.json")) if folder else []
    if not found:
        pytest.skip("UNIFASHION_SHARED_DATA does not hold Fashion-IQ annotations")
    texts = sorted({one_line(text) for path in found for query in json.loads(path.read_text()) for text in query["captions"]})
    own, reference = tokenize_captions(texts), tokenize_captions(texts, "ptb-java", java)
    assert sum(a != b for a, b in zip(own, reference)) <= 0.0005 * len(texts)
    val = json.loads(next(path for path in found if path.name == "cap.dress.val.json").read_text())[:200]
    pairs = [query["captions"] for query in val]
    table = score_captions(
        {str(i): p[0] for i, p in enumerate(pairs)}, {str(i): [p[1]] for i, p in enumerate(pairs)}, tools=java
    )
    scores = table.scores()
    found_scores = [scores[k] for k in ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")]
    assert found_scores == pytest.approx([0.050649, 0.123867, 0.278477, 0.552900], abs=1e-6)
