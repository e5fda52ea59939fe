"""Intervals and comparisons against worked examples and analytic errors."""

from __future__ import annotations

import numpy as np
import pytest

from unifashion_pl.metrics.intervals import (
    bootstrap_interval,
    cluster_standard_error,
    compare_paired,
    exact_mcnemar,
    resampled_means,
    seed_summary,
    wilson_interval,
)


class TestIntervals:
    def test_worked_examples(self, examples):
        for case in examples["wilson"]:
            interval = wilson_interval(case["k"], case["n"])
            assert [interval.low, interval.high] == pytest.approx(case["interval"], abs=1e-6)
        for case in examples["mcnemar"]:
            assert exact_mcnemar(case["only_a"], case["only_b"]) == pytest.approx(case["p"], abs=1e-6)
        case = examples["cluster_se"]
        assert cluster_standard_error(case["hits"], case["clusters"]) == pytest.approx(case["p_and_se"], abs=1e-6)
        assert cluster_standard_error(case["hits"]) == pytest.approx(case["p_and_se_without_clusters"], abs=1e-6)
        case = examples["seeds"]
        found = seed_summary(case["values"])
        expected = [case[k] for k in ("mean", "sd", "half_mean", "half_new_run")]
        assert [found.mean, found.sd, found.half_mean, found.half_new_run] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("runs", "t"), [(2, 12.7062047), (3, 4.3026527), (4, 3.1824463), (6, 2.5705818), (10, 2.2621572), (31, 2.0422725)]
    )
    def test_seed_intervals_take_students_t_from_the_tables(self, runs, t):
        values = [0.0] * (runs - 1) + [1.0]
        found = seed_summary(values)
        assert found.sd == pytest.approx(runs**-0.5)
        assert found.half_mean == pytest.approx(t / runs, rel=1e-7)
        assert found.half_new_run == pytest.approx(t * ((1 + 1 / runs) / runs) ** 0.5, rel=1e-7)

    @pytest.mark.parametrize("clustered", [False, True])
    def test_bootstrap_agrees_with_the_analytic_error(self, clustered):
        generator = np.random.default_rng(0)
        clusters = generator.integers(0, 150, 600).tolist() if clustered else None
        level = generator.uniform(0, 1, 150)
        chance = [level[c] for c in clusters] if clusters is not None else 0.4
        hits = generator.uniform(size=600) < chance
        p, error = cluster_standard_error(hits, clusters)
        draws = resampled_means(hits, clusters)[:, 0]
        assert draws.mean() == pytest.approx(p, abs=0.2 * error)
        assert draws.std() == pytest.approx(error, rel=0.08)
        interval = bootstrap_interval(hits, clusters)
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)

    def test_paired_comparison(self):
        generator = np.random.default_rng(1)
        a, b = generator.uniform(size=400) < 0.6, generator.uniform(size=400) < 0.5
        strata = ["x"] * 100 + ["y"] * 300
        found = compare_paired(a, b, strata=strata)
        assert found.difference == pytest.approx(((a[:100] * 1.0 - b[:100]).mean() + (a[100:] * 1.0 - b[100:]).mean()) / 2)
        assert found.interval.low < found.difference < found.interval.high
        assert (found.only_a, found.only_b) == (int((a & ~b).sum()), int((b & ~a).sum()))
        assert compare_paired(a, a).p_value == 1.0
        with pytest.raises(ValueError, match="same queries"):
            compare_paired(a, b[:-1])

    def test_refusals(self):
        for arguments in ((1, 0), (5, 4), (-1, 4)):
            with pytest.raises(ValueError, match="0 <= hits <= n"):
                wilson_interval(*arguments)
        with pytest.raises(ValueError, match="at least 2 runs"):
            seed_summary([1.0])
        with pytest.raises(ValueError, match="two clusters"):
            cluster_standard_error([1, 0], ["x", "x"])
