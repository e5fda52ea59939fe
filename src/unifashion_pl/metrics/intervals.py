"""Intervals and comparisons: Wilson, cluster bootstrap, exact McNemar, training seeds. All at 95 % unless told otherwise."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unifashion_pl.metrics.records import Interval

Floats = NDArray[np.float64]
RESAMPLES = 2000
_BLOCK = 250


def wilson_interval(hits: float, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of one proportion, as fractions.

    >>> interval = wilson_interval(5, 10)
    >>> round(interval.low, 6), round(interval.high, 6)
    (0.236593, 0.763407)

    Raises:
        ValueError: ``n`` is not positive or ``hits`` outside 0..n.
    """
    if n <= 0 or not 0 <= hits <= n:
        raise ValueError(f"Wilson interval needs 0 <= hits <= n and n > 0, got hits={hits}, n={n}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == n else centre + half
    return Interval(low, high, level, "wilson")


def cluster_codes(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    """Clusters numbered by first appearance."""
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(c, len(codes)) for c in clusters], dtype=np.int64)


def cluster_sums(values: ArrayLike, codes: NDArray[np.int64], n_clusters: int) -> Floats:
    """Sum of ``values`` (n, M) per cluster -> (n_clusters, M)."""
    columns = np.asarray(values, dtype=np.float64).reshape(len(codes), -1)
    return np.stack([np.bincount(codes, column, minlength=n_clusters) for column in columns.T], axis=1)


def resampled_sums(sums: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Totals of clusters drawn with replacement: (G, M) per-cluster sums -> (resamples, M).

    The draws depend on ``G``, ``resamples`` and ``seed`` only, so two calls with equal ``G`` are paired.
    """
    n_clusters = len(sums)
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _BLOCK):
        height = min(_BLOCK, resamples - start)
        drawn = generator.integers(0, n_clusters, size=(height, n_clusters)) + np.arange(height)[:, None] * n_clusters
        counts = np.bincount(drawn.ravel(), minlength=height * n_clusters).reshape(height, n_clusters)
        parts.append(counts.astype(np.float64) @ sums)
    return np.concatenate(parts)


def resampled_means(
    values: ArrayLike, clusters: Sequence[Hashable] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """Bootstrap distribution of column means: ``values`` (n, M) -> (resamples, M).

    Whole clusters are drawn, each with all its rows; without ``clusters`` every row is its own.
    """
    columns = np.asarray(values, dtype=np.float64).reshape(len(np.asarray(values)), -1)
    codes = cluster_codes(clusters) if clusters is not None else np.arange(len(columns))
    sums = cluster_sums(np.column_stack([columns, np.ones(len(columns))]), codes, int(codes.max()) + 1)
    totals = resampled_sums(sums, resamples, seed)
    return totals[:, :-1] / totals[:, -1:]


def percentile_interval(distribution: ArrayLike, level: float = 0.95, method: str = "bootstrap") -> Interval:
    """Central percentiles of a bootstrap distribution (B,)."""
    low, high = np.quantile(np.asarray(distribution, dtype=np.float64), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, method)


def bootstrap_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a mean; ``values`` (n,) in any unit, which the ends keep."""
    distribution = resampled_means(values, clusters, resamples, seed)[:, 0]
    kind = "iid" if clusters is None else "clusters"
    return percentile_interval(distribution, level, f"bootstrap({kind},B={resamples},seed={seed})")


def cluster_standard_error(hits: ArrayLike, clusters: Sequence[Hashable] | None = None) -> tuple[float, float]:
    """Proportion and its analytic standard error with clusters (a check of the bootstrap).

    SE = sqrt(sum_g (s_g - p m_g)^2 / M^2 * G / (G - 1)), s_g hits and m_g rows of cluster g.
    """
    flat = np.asarray(hits, dtype=np.float64)
    codes = cluster_codes(clusters) if clusters is not None else np.arange(len(flat))
    groups = int(codes.max()) + 1
    if groups < 2:
        raise ValueError("a standard error needs at least two clusters")
    sums = cluster_sums(np.column_stack([flat, np.ones(len(flat))]), codes, groups)
    p = float(flat.mean())
    spread = float(((sums[:, 0] - p * sums[:, 1]) ** 2).sum())
    return p, math.sqrt(spread / len(flat) ** 2 * groups / (groups - 1))


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same queries.

    Attributes:
        difference: mean of a minus mean of b, in the unit of the values.
        interval: paired bootstrap interval of the difference.
        only_a, only_b: queries that only one of the two gets right.
        p_value: exact McNemar test, two-sided.
    """

    difference: float
    interval: Interval
    only_a: int
    only_b: int
    p_value: float


def exact_mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar p-value from the discordant counts.

    >>> round(exact_mcnemar(12, 5), 6)
    0.143463
    """
    n = only_a + only_b
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1))
    return float(min(1.0, 2 * tail / 2**n))


def compare_paired(
    hits_a: ArrayLike,
    hits_b: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Paired bootstrap and exact McNemar of two systems; ``hits`` (n,) 0/1 in the same query order.

    With ``strata`` (e.g. categories) the difference is the unweighted mean of the strata, each resampled on its own.

    Raises:
        ValueError: the systems have different numbers of queries.
    """
    a, b = np.asarray(hits_a, dtype=np.float64), np.asarray(hits_b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired comparison needs the same queries, got {len(a)} and {len(b)}")
    layers = cluster_codes(strata) if strata is not None else np.zeros(len(a), dtype=np.int64)
    groups = cluster_codes(clusters) if clusters is not None else np.arange(len(a))
    means, draws = [], []
    for layer in range(int(layers.max()) + 1):
        here = layers == layer
        means.append(float((a[here] - b[here]).mean()))
        draws.append(resampled_means(a[here] - b[here], groups[here].tolist(), resamples, seed + layer)[:, 0])
    interval = percentile_interval(np.mean(draws, axis=0), level, f"paired bootstrap(B={resamples},seed={seed})")
    only_a, only_b = int(((a > 0) & (b == 0)).sum()), int(((a == 0) & (b > 0)).sum())
    return Comparison(float(np.mean(means)), interval, only_a, only_b, exact_mcnemar(only_a, only_b))


@dataclass(frozen=True)
class SeedSummary:
    """Training runs with different seeds: mean, standard deviation and half-widths of both intervals."""

    mean: float
    sd: float
    runs: int
    half_mean: float
    half_new_run: float
    level: float


def seed_summary(values: Sequence[float], level: float = 0.95) -> SeedSummary:
    """Student intervals of the mean over runs and of one further run.

    Raises:
        ValueError: fewer than two runs.
    """
    from scipy.special import stdtrit  # a second of import, for what only several runs need

    runs = len(values)
    if runs < 2:
        raise ValueError(f"an interval over training seeds needs at least 2 runs, got {runs}")
    mean = math.fsum(values) / runs
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (runs - 1))
    t = float(stdtrit(runs - 1, 0.5 + level / 2))
    return SeedSummary(mean, sd, runs, t * sd / math.sqrt(runs), t * sd * math.sqrt(1 + 1 / runs), level)
