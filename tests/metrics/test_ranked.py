"""Ranked queries: recall over draws and strata, and bootstraps whose clusters are drawn whole, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.ranked import RankedQuery, RankedTable, averages, mean_of_all

KS = (1, 5)
VARIANTS = (("original",), ("union",))


def queries(n: int = 60, draws: int = 1, seed: int = 0) -> list[RankedQuery]:
    generator = np.random.default_rng(seed)
    made = []
    for draw in range(draws):
        for stratum in ("a", "b"):
            for i in range(n):
                ranks = {v: (int(generator.integers(8)), int(generator.integers(2))) for v in VARIANTS}
                made.append(RankedQuery(f"{stratum}{i}", stratum, f"c{generator.integers(n // 3)}", ranks, draw))
    return made


def hits(query: RankedQuery, variant: tuple[str, ...], k: int) -> float:
    better, ties = query.ranks[variant]
    return 100.0 * (better + ties < k)


def recall(found: list[RankedQuery], variant: tuple[str, ...], k: int) -> float:
    """Mean over draws of the recall of each."""
    of_draws = [[hits(q, variant, k) for q in found if q.draw == draw] for draw in {q.draw for q in found}]
    return float(np.mean([np.mean(values) for values in of_draws if values]))


def test_numbers_are_means_over_draws_and_strata():
    every = queries(draws=3)
    table = RankedTable(every, KS, ("a", "b"), averages, "product")
    numbers = table.numbers()
    assert list(numbers) == list(VARIANTS)
    for variant, values in numbers.items():
        own = {f"{s}/R@{k}": recall([q for q in every if q.stratum == s], variant, k) for s in "ab" for k in KS}
        assert values == pytest.approx(
            {
                **own,
                "mean/R@1": (own["a/R@1"] + own["b/R@1"]) / 2,
                "mean/R@5": (own["a/R@5"] + own["b/R@5"]) / 2,
                "Avg": sum(own.values()) / 4,
            }
        )
    joint = RankedTable(every, KS, ("a", "b"), mean_of_all, "product", joint=True)
    assert joint.numbers()[VARIANTS[0]]["mean"] == pytest.approx(numbers[VARIANTS[0]]["Avg"])


def resampled(found: list[RankedQuery], variant: tuple[str, ...], resamples: int, seed: int) -> dict[str, list[float]]:
    """The bootstrap by plain loops, on the same drawing of clusters."""
    names = list(dict.fromkeys(q.cluster for q in found))
    drawn = np.random.default_rng(seed).integers(0, len(names), size=(resamples, len(names)))
    members = [[q for q in found if q.cluster == name] for name in names]
    spread: dict[str, list[float]] = {f"{q.stratum}/R@{k}": [] for q in found for k in KS}
    for row in drawn:
        sample = [q for i in row for q in members[i]]
        for name, values in spread.items():
            stratum, _, k = name.partition("/R@")
            values.append(recall([q for q in sample if q.stratum == stratum], variant, int(k)))
    return spread


def test_a_joint_bootstrap_draws_clusters_with_all_their_queries():
    every = queries(draws=2)
    spread = RankedTable(every, KS, ("a", "b"), mean_of_all, "product", joint=True).distributions(20)
    for variant in VARIANTS:
        expected = resampled(every, variant, 20, 0)
        assert {name: spread[variant][name].tolist() for name in expected} == {
            name: pytest.approx(values) for name, values in expected.items()
        }
        assert spread[variant]["mean"] == pytest.approx(np.mean(list(expected.values()), axis=0))


def test_strata_are_drawn_by_themselves_and_the_same_for_all_variants():
    every = queries()
    spread = RankedTable(every, KS, ("a", "b"), averages, "reference").distributions(20)
    for seed, stratum in enumerate("ab"):
        for variant in VARIANTS:
            expected = resampled([q for q in every if q.stratum == stratum], variant, 20, seed)
            for name, values in expected.items():
                assert spread[variant][name] == pytest.approx(values)


def test_records_say_n_ties_intervals_and_the_spread_over_draws():
    protocols = {variant: Protocol("mine", gallery=variant[0]) for variant in VARIANTS}
    plain = RankedTable(queries(), KS, ("a", "b"), averages, "reference", dropped={"lost": 10})
    records = plain.records(protocols, "here", {"a": 70, "b": 60}, 50, seed=3)
    assert [r.metric for r in records[:5]] == ["a/R@1", "a/R@5", "b/R@1", "b/R@5", "mean/R@1"]
    assert [(r.n, r.n_expected) for r in records[:5:2]] == [(60, 70), (60, 60), (120, 130)]
    assert {(r.seed, r.implementation, r.dropped["lost"]) for r in records} == {(3, "here", 10)}
    assert [r.interval.method for r in records[3:5]] == ["wilson", "bootstrap(clusters=reference,B=50,seed=category)"]
    assert records[0].ties == sum(q.ranks[VARIANTS[0]][1] > 0 for q in plain.strata["a"])
    drawn = RankedTable(queries(draws=3), KS, ("a", "b"), mean_of_all, "product", joint=True)
    records = drawn.records(protocols, "here", resamples=50)
    spread = [r for r in records if r.metric.endswith("sd_over_draws")]
    assert [r.metric.removesuffix("/sd_over_draws") for r in spread[:4]] == ["a/R@1", "a/R@5", "b/R@1", "b/R@5"]
    each = [recall([q for q in drawn.strata["a"] if q.draw == draw], VARIANTS[0], 1) for draw in range(3)]
    assert spread[0].value == pytest.approx(np.std(each, ddof=1))
    assert not any("wilson" in r.interval.method for r in records if r.interval)


def test_only_variants_that_every_query_has_are_reported():
    every = queries(9)
    every[4] = RankedQuery("x", "a", "c", {VARIANTS[1]: (0, 0)})
    table = RankedTable(every, KS, ("a", "b"), averages, "reference")
    assert list(table.numbers()) == [VARIANTS[1]]
    assert RankedTable([], KS, (), averages, "reference").records({}, "here") == []


def test_the_place_of_a_query_counts_from_one():
    query = RankedQuery("q", "a", "c", {(): (4, 2), ("both",): (0, 0)})
    assert query.place() == {"rank": 5, "ties": 2}
    assert query.place(("both",)) == {"rank": 1, "ties": 0}
