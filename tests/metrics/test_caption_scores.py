"""Caption scores of whole sets: worked examples, and pycocoevalcap itself, run as it is (Java for its tokeniser and METEOR).

Real Fashion-IQ sentences where UNIFASHION_SHARED_DATA names the folder with them, else captions of the wardrobe.
"""

from __future__ import annotations

import importlib
import json
import os
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unifashion_pl.metrics.caption_scores import CaptionScores, CaptionTable, score_captions, tokenize_captions
from unifashion_pl.metrics.coco.captions import bleu, cider_d, rouge_l
from unifashion_pl.metrics.coco.java import JavaTools, one_line
from unifashion_pl.wardrobe.products import make_product
from unifashion_pl.wardrobe.texts import describe

SETS = ["a", "b", "b_unifashion_release", "single", "empty"]
NO_JAVA = JavaTools(None, None, None)
COUNT = 600
Groups = dict[str, list[str]]


def filled(case, metric: CaptionScores, batch: int = 100) -> CaptionScores:
    cases = case["cases"]
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        metric.update([c["hypothesis"] for c in part], [c["references"] for c in part], [c["id"] for c in part])
    return metric


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
        with pytest.raises(ValueError, match="unknown protocol 'nltk'; known are coco"):
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


@pytest.fixture(scope="module")
def tools() -> Iterator[JavaTools]:
    """Java and upstream's jars; upstream calls plain ``java`` and reads text in the platform's encoding."""
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed (pip install --no-deps pycocoevalcap)")
    found = JavaTools.find()
    if (reason := found.missing(found.ptb_jar)) is not None:
        pytest.skip(f"the oracle {reason}")
    assert found.java is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(found.java.parent), prepend=os.pathsep)
        patch.setenv("JAVA_TOOL_OPTIONS", "-Dfile.encoding=UTF-8")
        yield found


def fashion_iq(folder: str) -> list[list[str]] | None:
    """Texts of validation queries: each query's two and the first one of its successor."""
    found = sorted(Path(folder).rglob("cap.*.val.json"))
    if not found:
        return None
    texts = [query["captions"] for path in found for query in json.loads(path.read_text("utf-8"))[: COUNT // len(found) + 2]]
    groups = [[*own, following[0]] for own, following in pairwise(texts)]
    return [group for group in groups if all(text.strip(" .,?") for text in group)][:COUNT]


def wardrobe() -> list[list[str]]:
    """Three captions of each product, from a few words to a stylist's sentences."""
    rng = random.Random(0)
    styles = ("fashioniq", "fashiongen", "fashion200k")
    return [[describe(make_product(0, i), style, rng) for style in styles] for i in range(COUNT)]


@pytest.fixture(scope="module")
def pairs() -> tuple[Groups, Groups]:
    """Hypotheses and references by id; every other item has two references."""
    folder = os.environ.get("UNIFASHION_SHARED_DATA")
    groups = (fashion_iq(folder) if folder else None) or wardrobe()
    lines = {f"{i:04d}": [one_line(text) for text in group] for i, group in enumerate(groups)}
    return {i: g[:1] for i, g in lines.items()}, {i: g[1 : 2 + n % 2] for n, (i, g) in enumerate(lines.items())}


def upstream(name: str) -> Any:
    """E.g. the class ``Bleu`` of ``pycocoevalcap.bleu.bleu``."""
    return getattr(importlib.import_module(f"pycocoevalcap.{name.lower()}.{name.lower()}"), name)


@pytest.fixture(scope="module")
def tokenised(tools: JavaTools, pairs: tuple[Groups, Groups]) -> tuple[Groups, Groups]:
    """The same as upstream's tokeniser prints them."""
    tokenizer = importlib.import_module("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    results, truths = ({i: [{"caption": text} for text in group] for i, group in part.items()} for part in pairs)
    return tokenizer.tokenize(results), tokenizer.tokenize(truths)


@pytest.fixture(scope="module")
def table(tools: JavaTools, pairs: tuple[Groups, Groups]) -> CaptionTable:
    """Our scores from the raw sentences."""
    return score_captions({i: group[0] for i, group in pairs[0].items()}, dict(pairs[1]), tokenizer="ptb-java", tools=tools)


@pytest.mark.slow
def test_tokens_equal_pycocoevalcaps(
    table: CaptionTable, pairs: tuple[Groups, Groups], tokenised: tuple[Groups, Groups]
) -> None:
    assert table.ids == sorted(tokenised[0])
    assert table.hypotheses == [tokenised[0][i][0] for i in table.ids]
    assert table.references == [tokenised[1][i] for i in table.ids]
    raw, expected = ([text for part in both for group in part.values() for text in group] for both in (pairs, tokenised))
    differing = sum(a != b for a, b in zip(tokenize_captions(raw, "ptb-py"), expected))
    assert differing <= 0.0005 * len(raw), f"the port of the tokeniser differs from Java in {differing} of {len(raw)} sentences"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Bleu", "Rouge", "Cider", "Meteor"])
def test_scores_equal_pycocoevalcaps(
    table: CaptionTable, tools: JavaTools, tokenised: tuple[Groups, Groups], name: str
) -> None:
    if name == "Meteor" and (reason := tools.missing(tools.meteor_jar)) is not None:
        pytest.skip(f"METEOR {reason}")
    hypotheses, references = tokenised
    corpus, segments = upstream(name)().compute_score(references, hypotheses)
    scores = table.scores()
    ordered = [hypotheses[i][0] for i in hypotheses], [references[i] for i in hypotheses]
    if name == "Bleu":
        assert [scores[f"BLEU-{n}"] for n in range(1, 5)] == pytest.approx(corpus, rel=1e-9)
        assert bleu(*ordered) == pytest.approx(corpus, rel=1e-9)
        alone = [bleu([h], [r])[3] for h, r in zip(*ordered)]
        assert alone == pytest.approx(segments[3], rel=1e-6)
        return
    label, own = {
        "Rouge": ("ROUGE-L", rouge_l(*ordered)),
        "Cider": ("CIDEr", cider_d(*ordered)),
        "Meteor": ("METEOR", table.meteor),
    }[name]
    assert scores[label] == pytest.approx(corpus, rel=1e-9)
    assert own == pytest.approx(np.asarray(segments).tolist(), rel=1e-9)
