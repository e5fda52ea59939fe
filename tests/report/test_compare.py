"""Comparison of runs: against plain numpy on the same prediction files, and what must not be compared."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from fake_lines import HUNDRED, SIZES, both, composed, evaluation, records

from unifashion_pl.metrics.lines import CaptionLine, ComposedLine, write_lines
from unifashion_pl.metrics.records import write_records
from unifashion_pl.report import build_report
from unifashion_pl.report.compare import Difference, differences, holm, partners, refusal
from unifashion_pl.report.outcomes import Outcomes, ScoredSample, outcomes
from unifashion_pl.report.runfolder import Evaluation, Run, name_apart


def by_metric(found: list[Difference]) -> dict[str, Difference]:
    return {d.metric: d for d in found}


def sign_p(more: int, fewer: int) -> float:
    n = more + fewer
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(more, fewer) + 1)) / 2**n)


def test_composed_differences_follow_from_the_lines_by_numpy() -> None:
    a, b = evaluation(0, 0.10), evaluation(1, 0.16)
    found = by_metric(differences(*both("composed", a, b)))
    assert list(found) == ["mean/R@10", "mean/R@50", *(f"{c}/R@{k}" for c in sorted(SIZES) for k in (10, 50)), "Avg"]
    gaps: dict[int, list[float]] = {10: [], 50: []}
    for category in SIZES:
        for k in (10, 50):
            hits = [
                np.array(
                    [sum(x.ranks["original/ref-kept/image"]) <= k for x in e.lines(ComposedLine) if x.category == category]
                )
                for e in (a, b)
            ]
            gap = 100 * (hits[1].mean() - hits[0].mean())
            gaps[k].append(gap)
            d = found[f"{category}/R@{k}"]
            assert (d.first, d.second) == pytest.approx([100 * h.mean() for h in hits])
            assert d.difference == pytest.approx(gap)
            assert d.n == SIZES[category]
            assert d.interval.low <= gap <= d.interval.high
    assert found["mean/R@10"].difference == pytest.approx(np.mean(gaps[10]))
    assert found["Avg"].difference == pytest.approx(np.mean([np.mean(gaps[10]), np.mean(gaps[50])]))
    assert found["mean/R@10"].difference > 3
    assert found["mean/R@10"].n == 190


def test_interval_and_p_of_single_queries_by_formula() -> None:
    rng = np.random.default_rng(3)
    a, b = 100.0 * (rng.random(400) < 0.4), 100.0 * (rng.random(400) < 0.5)
    sides = [
        Outcomes(
            "t",
            frozenset("p"),
            frozenset(),
            {str(i): ScoredSample("", "", str(i), {"m": float(v)}) for i, v in enumerate(values)},
        )
        for values in (a, b)
    ]
    (d,) = differences(*sides)
    half = 1.96 * (b - a).std(ddof=1) / math.sqrt(400)
    assert d.interval.low == pytest.approx((b - a).mean() - half, abs=0.12 * half)
    assert d.interval.high == pytest.approx((b - a).mean() + half, abs=0.12 * half)
    assert (d.more, d.fewer) == (int((b > a).sum()), int((b < a).sum()))
    assert d.p_value == pytest.approx(sign_p(d.more, d.fewer))
    assert differences(sides[1], sides[0])[0].difference == -d.difference


def test_copies_of_a_query_add_no_evidence() -> None:
    sides = [
        [
            next(iter(outcomes(Evaluation("", Path("r"), records(), {"composed": [*composed(seed, p, copies)]})).values()))
            for seed, p in ((0, 0.10), (1, 0.16))
        ]
        for copies in (1, 4)
    ]
    once, often = (by_metric(differences(*pair)) for pair in sides)
    for metric, d in once.items():
        assert often[metric].n == 4 * d.n
        assert often[metric].difference == pytest.approx(d.difference)
        assert (often[metric].interval.low, often[metric].interval.high) == pytest.approx((d.interval.low, d.interval.high))
        assert (often[metric].more, often[metric].fewer, often[metric].p_value) == (d.more, d.fewer, d.p_value)


def test_retrieval_mean_weighs_directions_alike() -> None:
    found = by_metric(differences(*both("fashiongen_100", evaluation(0, 0.3), evaluation(1, 0.5))))
    four = [found[f"{d}/R@{k}"] for d in ("i2t", "t2i") for k in (1, 5)]
    assert found["mean"].first == pytest.approx(np.mean([d.first for d in four]))
    assert found["mean"].difference == pytest.approx(np.mean([d.difference for d in four]))
    assert (found["i2t/R@1"].n, found["t2i/R@1"].n, found["mean"].n) == (80, 40, 120)
    assert found["i2t/R@1"].more + found["i2t/R@1"].fewer <= 20, "products are counted once"


def test_captions_compare_means_and_words() -> None:
    a, b = evaluation(0), evaluation(1)
    scores = by_metric(differences(*both("caption scores", a, b)))
    assert set(scores) == {"ROUGE-L", "CIDEr"}
    cider = [100 * np.mean([x.scores["CIDEr"] for x in e.lines(CaptionLine) if x.scores]) for e in (a, b)]
    assert (scores["CIDEr"].first, scores["CIDEr"].second) == pytest.approx(cider)
    (words,) = differences(*both("colour", a, b))
    assert words.n == 49, "a reference without a colour is not judged"


def test_a_run_against_itself_has_no_differences() -> None:
    for name, side in outcomes(evaluation()).items():
        for d in differences(side, side):
            assert (d.difference, d.interval.low, d.interval.high, d.p_value, d.significant) == (0, 0, 0, 1, False), name


def test_what_cannot_be_paired_is_refused_in_words() -> None:
    names = ("one", "two")
    assert refusal(*both("fashiongen_100", evaluation(), evaluation(1)), names) is None
    other = refusal(*both("fashiongen_100", evaluation(), evaluation(hundred=HUNDRED.replace("aaaa", "bbbb"))), names)
    assert other is not None
    assert "mix protocols" in other
    assert "list=aaaa" in other
    assert "list=bbbb" in other
    fewer = evaluation()
    fewer.predictions["composed"] = fewer.predictions["composed"][1:]
    ids = refusal(*both("composed", evaluation(), fewer), names)
    assert ids is not None
    assert "1 only in one (e.g. dress-000-0)" in ids
    assert "189 in both" in ids
    changed = evaluation()
    changed.lines(ComposedLine)[3].text = "is something else"
    texts = refusal(*both("composed", evaluation(), changed), names)
    assert texts is not None
    assert "1 queries of the same id differ" in texts
    assert "is something else" in texts
    data = refusal(*both("fashiongen_100", evaluation(), evaluation(data="e")), names)
    assert data is not None
    assert "hash d in one, e in two" in data


def test_holm_stops_at_the_first_that_fails() -> None:
    assert holm([0.01, 0.02, 0.03, 0.04]) == [True, False, False, False]
    assert holm([0.012, 0.015, 0.02, 0.04]) == [True, True, True, True]
    assert holm([]) == []


def make(folder: Path, seed: int, better: float, **said: str) -> Path:
    made = evaluation(seed, better, **said)
    (folder / "test").mkdir(parents=True)
    write_records(folder / "test/results.json", made.records)
    for name, lines in made.predictions.items():
        write_lines(folder / "test/predictions" / f"{name}.jsonl", lines)
    return folder


def test_page_compares_runs_and_refuses_mixed_protocols(tmp_path: Path) -> None:
    one = make(tmp_path / "one/run", 0, 0.05)
    two = make(tmp_path / "two/run", 1, 0.30, hundred=HUNDRED.replace("seed=0", "seed=1"))
    text = build_report([one, two], tmp_path / "r.html").read_text(encoding="utf-8")
    part = text.partition('id="comparison"')[2].partition("<h2")[0]
    assert "two/run minus one/run, on the same queries" in part
    assert '<th scope="row">mean/R@10</th>' in part
    assert "★</span>" in part
    assert '<th scope="row">i2t/R@1</th>' not in part
    refused = re.findall(r'class="note refused">([^<]*)', part)
    assert len(refused) == 1
    assert "would mix protocols" in refused[0]
    alone = build_report([one], tmp_path / "s.html").read_text(encoding="utf-8")
    assert 'id="comparison"' not in alone


def test_phases_are_paired_by_name() -> None:
    def run(*labels: str) -> Run:
        return Run(Path("r"), evaluations=[Evaluation(label, Path("r"), [], {}) for label in labels])

    assert len(partners(run("phase2"), run("best"))) == 1, "the only ones belong together"
    pairs = partners(run("phase1", "phase2"), run("phase2"))
    assert [(a.label, b.label) for a, b in pairs] == [("phase2", "phase2")]
    assert partners(run("phase1", "phase2"), run("other")) == []


def test_runs_called_alike_get_longer_names(tmp_path: Path) -> None:
    runs = [Run(tmp_path / name) for name in ("a/run", "b/run", "c")]
    assert [run.name for run in name_apart(runs)] == ["a/run", "b/run", "c"]
    twice = [Run(tmp_path / "a"), Run(tmp_path / "a")]
    assert [run.name for run in name_apart(twice)] == ["a (1)", "a (2)"]
