"""From ranked queries to recall, intervals, the spread over draws and result records: one shape for every retrieval metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from unifashion_pl.metrics.intervals import (
    RESAMPLES,
    Floats,
    cluster_codes,
    cluster_sums,
    percentile_interval,
    resampled_sums,
    wilson_interval,
)
from unifashion_pl.metrics.measures import Measure
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.recall import Ranks
from unifashion_pl.metrics.records import Interval, ResultRecord
from unifashion_pl.trec import Best, Listing

Variant = tuple[str, ...]
Means = Callable[[Mapping[str, Any], Sequence[int]], dict[str, Any]]


@dataclass(frozen=True)
class RankedQuery:
    """Outcome of one query.

    Attributes:
        key: its name.
        stratum: part of the queries whose recall stands by itself: a category, or a direction.
        cluster: what its errors hang on: its reference image, or its product.
        ranks: variant of the ranking -> (better, ties).
        draw: of the candidates.
        facts: further fields of its prediction line.
        lists: variant -> its best candidates, where they were asked for.
        right: names of its right answers among them.
    """

    key: str
    stratum: str
    cluster: str
    ranks: dict[Variant, tuple[int, int]]
    draw: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    lists: dict[Variant, Best] = field(default_factory=dict)
    right: tuple[str, ...] = ()

    def place(self, variant: Variant = ()) -> dict[str, int]:
        """``rank`` and ``ties`` as in prediction files (:mod:`unifashion_pl.metrics.lines`)."""
        better, ties = self.ranks[variant]
        return {"rank": better + 1, "ties": ties}

    def places(self, variant: Variant) -> list[int]:
        """Where its right answers stand, from 1, behind all that score as they do; of several, those among :attr:`lists`."""
        if len(self.right) < 2:
            return [sum(self.ranks[variant]) + 1]
        right = set(self.right)
        found = [i for i, name in enumerate(self.lists[variant].names, 1) if name in right]
        return found or [sum(self.ranks[variant]) + 1]


def averages(values: Mapping[str, Any], ks: Sequence[int]) -> dict[str, Any]:
    """``mean/R@K`` = unweighted mean over strata, ``Avg`` = mean of the means; for numbers or arrays.

    >>> averages({"dress/R@10": 50.0, "shirt/R@10": 60.0, "dress/R@50": 70.0, "shirt/R@50": 80.0}, (10, 50))
    {'mean/R@10': 55.0, 'mean/R@50': 75.0, 'Avg': 65.0}
    """
    means = {}
    for k in ks:
        columns = [value for name, value in values.items() if name.endswith(f"/R@{k}")]
        if columns:
            means[f"mean/R@{k}"] = sum(columns) / len(columns)
    return {**means, "Avg": sum(means.values()) / len(means)} if means else {}


def mean_of_all(values: Mapping[str, Any], ks: Sequence[int]) -> dict[str, Any]:
    """``mean`` of all numbers or arrays.

    >>> mean_of_all({"i2t/R@1": 50.0, "t2i/R@1": 60.0}, (1,))
    {'mean': 55.0}
    """
    return {"mean": sum(values.values()) / len(values)}


@dataclass(frozen=True)
class RankedTable:
    """Numbers of a set of ranked queries.

    Attributes:
        queries: the outcomes.
        ks: the K of R@K.
        strata_names: in the order of tables.
        means: what is averaged over strata, and its names.
        clusters: what the clusters are, for the name of the bootstrap.
        joint: whether a cluster has queries in all strata and draws, and is drawn with all of them. Else every stratum is drawn by
            itself, with its number as seed, and a stratum's recall is a proportion with a Wilson interval.
        dropped: reason -> queries left out.
        measures: further ones, see :mod:`unifashion_pl.metrics.measures`; queries with several right answers need their lists for them.
    """

    queries: list[RankedQuery]
    ks: tuple[int, ...]
    strata_names: tuple[str, ...]
    means: Means
    clusters: str
    joint: bool = False
    dropped: Mapping[str, int] = field(default_factory=dict)
    measures: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of everything that is measured."""
        return [*(f"R@{k}" for k in self.ks), *self.measures]

    @cached_property
    def strata(self) -> dict[str, list[RankedQuery]]:
        """Queries of each stratum."""
        return {name: [q for q in self.queries if q.stratum == name] for name in self.strata_names}

    @cached_property
    def variants(self) -> list[Variant]:
        """Those that every query has."""
        shared = set.intersection(*(set(q.ranks) for q in self.queries)) if self.queries else set()
        return [variant for variant in self.queries[0].ranks if variant in shared] if shared else []

    def ranks(self, variant: Variant, queries: Sequence[RankedQuery]) -> Ranks:
        """Ranks of some queries under a variant."""
        table = torch.tensor([q.ranks[variant] for q in queries], dtype=torch.int64).reshape(-1, 2)
        return Ranks(table[:, 0], table[:, 1])

    def each(self, variant: Variant, queries: Sequence[RankedQuery]) -> Floats:
        """What every query adds to everything that is measured, (queries, names) in 0..1."""
        ranks = self.ranks(variant, queries)
        columns = [ranks.hits(k).numpy() for k in self.ks]
        if self.measures:
            places = [(query.places(variant), max(1, len(query.right))) for query in queries]
            columns += [np.array([m.of(*found) for found in places]) for m in map(Measure.parse, self.measures)]
        return np.stack(columns, axis=1)

    def recalls(self, variant: Variant, stratum: str) -> dict[str, list[float]]:
        """``R@K``, and further measures -> percent of every draw of a stratum."""
        queries = self.strata[stratum]
        values, draws = self.each(variant, queries), np.array([q.draw for q in queries])
        parts = [values[draws == draw] for draw in np.unique(draws)]
        return {name: [100.0 * float(part[:, i].mean()) for part in parts] for i, name in enumerate(self.names)}

    def averaged(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Numbers or arrays with their means: those of recall as :attr:`means` has them, those of further measures over strata."""
        recall = {name: value for name, value in values.items() if name.rpartition("/")[2] not in self.measures}
        found = {**values, **self.means(recall, self.ks)}
        for measure in self.measures:
            columns = [value for name, value in values.items() if name.rpartition("/")[2] == measure]
            found[f"mean/{measure}"] = sum(columns) / len(columns)
        return found

    def runs(self, most: int) -> dict[str, list[Listing]]:
        """``STRATUM.VARIANT`` -> the ``most`` best of its queries, where lists were asked for; one of several draws is called ``DRAW/QUERY``."""
        drawn = len({query.draw for query in self.queries}) > 1
        return {
            ".".join((stratum, *variant)): [
                Listing(f"{query.draw}/{query.key}" if drawn else query.key, query.lists[variant].first(most), query.right)
                for query in queries
            ]
            for stratum, queries in self.strata.items()
            for variant in self.variants
            if most and queries and variant in queries[0].lists
        }

    def numbers(self) -> dict[Variant, dict[str, float]]:
        """``{variant: {"dress/R@10": percent, ..., "mean/R@10": ...}}``: recall averaged over draws, and means over strata."""
        table: dict[Variant, dict[str, float]] = {}
        for variant in self.variants:
            values: dict[str, float] = {}
            for stratum in self.strata:
                recalls = self.recalls(variant, stratum)
                values.update({f"{stratum}/{name}": float(np.mean(of_draws)) for name, of_draws in recalls.items()})
            table[variant] = self.averaged(values)
        return table

    def distributions(self, resamples: int = RESAMPLES) -> dict[Variant, dict[str, Floats]]:
        """Bootstrap distributions of every number: clusters are drawn, each with all its queries.

        The same resamples serve all variants, so that differences between variants are paired.
        """
        spread: dict[Variant, dict[str, Floats]] = {variant: {} for variant in self.variants}
        layers = [list(self.strata)] if self.joint else [[stratum] for stratum in self.strata]
        for seed, layer in enumerate(layers):
            queries = [q for stratum in layer for q in self.strata[stratum]]
            parts = [(name, draw) for name in layer for draw in sorted({q.draw for q in self.strata[name]})]
            inside = [np.array([(q.stratum, q.draw) == part for q in queries]) for part in parts]
            columns = []
            for variant in self.variants:
                each = self.each(variant, queries)
                hits = np.concatenate([each, np.ones((len(each), 1))], axis=1)
                columns += [hits * own[:, None] for own in inside]
            codes = cluster_codes([q.cluster for q in queries])
            sums = cluster_sums(np.concatenate(columns, axis=1), codes, int(codes.max()) + 1)
            totals = resampled_sums(sums, resamples, seed).reshape(resamples, len(self.variants), len(parts), -1)
            with np.errstate(invalid="ignore"):
                recalls = 100 * totals[..., :-1] / totals[..., -1:]
            for v, variant in enumerate(self.variants):
                for stratum in layer:
                    own_draws = recalls[:, v, [name == stratum for name, _ in parts]]
                    spread[variant] |= {
                        f"{stratum}/{name}": np.nanmean(own_draws[..., i], axis=1) for i, name in enumerate(self.names)
                    }
        return {variant: self.averaged(values) for variant, values in spread.items()}

    def records(
        self,
        protocols: Mapping[Variant, Protocol],
        implementation: str,
        expected: Mapping[str, int] | None = None,
        resamples: int = RESAMPLES,
        **context: Any,
    ) -> list[ResultRecord]:
        """One record per number, and ``.../sd_over_draws`` where there are several draws.

        Args:
            expected: queries of the whole data per stratum; None = not known.
            context: further fields of the records.
        """
        spread = self.distributions(resamples)
        records = []
        draws = tuple(sorted({query.draw for query in self.queries}))
        context = {"draws": draws if len(draws) > 1 else None, **context}
        for variant, numbers in self.numbers().items():
            base: dict[str, Any] = {"unit": "percent", "protocol": str(protocols[variant]), "implementation": implementation}
            base |= {"dropped": dict(self.dropped) or None, **context}
            for name, value in numbers.items():
                stratum = name.split("/")[0]
                queries = self.strata.get(stratum, self.queries)
                whole = (expected.get(stratum) if stratum in self.strata else sum(expected.values())) if expected else None
                counts = {"n": len(queries), "n_expected": whole, "ties": self.ranks(variant, queries).tied}
                interval = self._interval(name, value, len(queries), spread[variant][name])
                records.append(ResultRecord(name, value, interval=interval, **{**counts, **base}))
            for stratum, queries in self.strata.items():
                for measured, recalls in self.recalls(variant, stratum).items():
                    if len(recalls) > 1:
                        sd = float(np.std(recalls, ddof=1))
                        counts = {"n": len(queries), "ties": self.ranks(variant, queries).tied}
                        records.append(ResultRecord(f"{stratum}/{measured}/sd_over_draws", sd, **{**counts, **base}))
        return records

    def _interval(self, name: str, value: float, n: int, distribution: Floats) -> Interval:
        stratum, _, measured = name.partition("/")
        if stratum in self.strata and measured not in self.measures and not self.joint:
            return wilson_interval(value / 100 * n, n).scaled(100)
        seed = 0 if self.joint else "category"
        method = f"bootstrap(clusters={self.clusters},B={len(distribution)},seed={seed})"
        return percentile_interval(distribution, 0.95, method)
