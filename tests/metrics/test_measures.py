"""nDCG, MAP and MRR against trec_eval itself, on random rankings with one and with several right answers."""

from __future__ import annotations

import numpy as np
import pytest

from unifashion_pl.metrics.measures import Measure, depth
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.ranked import RankedQuery, RankedTable, averages
from unifashion_pl.trec import Best

pytrec_eval = pytest.importorskip("pytrec_eval", reason="the independent reading of rankings; it is in the extra test")

NAMES = {"nDCG@5": "ndcg_cut_5", "MAP@10": "map_cut_10", "MRR": "recip_rank"}


def rankings(n: int = 40) -> list[RankedQuery]:
    """Of 30 candidates in a random order, of which 1 to 12 are right."""
    random = np.random.default_rng(0)
    made = []
    for number in range(n):
        names = [f"d{i}" for i in random.permutation(30)]
        right = tuple(str(name) for name in random.choice(names, size=1 + number % 12, replace=False))
        first = min(names.index(name) for name in right)
        best = Best(names, -np.arange(30, dtype=np.float32))
        made.append(
            RankedQuery(
                f"q{number}", "ab"[number % 2], f"c{number // 4}", {(): (first, 0)}, lists={(): best.first(10)}, right=right
            )
        )
        made[-1].facts["all"] = best
    return made


def judged(queries: list[RankedQuery]) -> dict[str, dict[str, float]]:
    right = {q.key: dict.fromkeys(q.right, 1) for q in queries}
    run = {q.key: dict(zip(q.facts["all"].names, q.facts["all"].scores.tolist())) for q in queries}
    return pytrec_eval.RelevanceEvaluator(right, {"ndcg_cut.5", "map_cut.10", "recip_rank"}).evaluate(run)


def test_every_query_is_judged_as_trec_eval_judges_it() -> None:
    queries = rankings()
    table, right = RankedTable(queries, (1,), ("a", "b"), averages, "product", measures=tuple(NAMES)), judged(queries)
    values = table.each((), queries)
    for column, theirs in enumerate(NAMES.values(), 1):
        assert values[:, column] == pytest.approx([right[q.key][theirs] for q in queries])
    records = {r.metric: r for r in table.records({(): Protocol("p")}, "here", resamples=50)}
    for name, theirs in NAMES.items():
        of = {s: 100 * np.mean([right[q.key][theirs] for q in queries if q.stratum == s]) for s in "ab"}
        for stratum, value in {**of, "mean": np.mean(list(of.values()))}.items():
            found = records[f"{stratum}/{name}"]
            assert found.value == pytest.approx(value)
            assert found.interval is not None
            assert found.interval.low <= value <= found.interval.high
            assert found.interval.method.startswith("bootstrap(clusters=product,B=50")
    assert records["Avg"].value == records["mean/R@1"].value  # of recall alone
    assert records["a/R@1"].interval.method == "wilson"  # type: ignore[union-attr]


def test_a_tie_counts_against_a_query() -> None:
    query = RankedQuery("q", "a", "c", {(): (1, 2)})  # one better, two like it
    assert query.places(()) == [4]
    assert Measure.parse("MRR").of([4], 1) == 0.25


@pytest.mark.parametrize("name", ["nDCG", "ndcg@5", "MAP@0", "MRR@5", "R@5", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected nDCG@K, MAP@K or MRR"):
        depth([name])
