"""From ranked composed queries to tables, intervals and result records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from unifashion_pl.metrics.intervals import RESAMPLES, percentile_interval, resampled_means, wilson_interval
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.recall import Ranks, recall_percent
from unifashion_pl.metrics.records import Interval, ResultRecord

GALLERIES = ("original", "union", "targets")
REFERENCES = ("ref-kept", "ref-removed")
SCORES = ("image", "caption", "both")
Variant = tuple[str, str, str]


@dataclass(frozen=True)
class RankedQuery:
    """Outcome of one query.

    Attributes:
        key, category, reference, target: which query it is.
        overlap: its target stands in a train split of another category.
        ranks: (gallery, reference rule, score) -> (better, ties).
        top: score -> best (id, score) pairs of the original gallery, reference kept.
    """

    key: str
    category: str
    reference: str
    target: str
    overlap: bool
    ranks: dict[Variant, tuple[int, int]]
    top: dict[str, list[tuple[str, float]]]

    def to_dict(self) -> dict[str, Any]:
        """Line of a prediction file; ``rank`` and ``ties`` are those of the last score in the original gallery."""
        rank, ties = self.ranks["original", "ref-kept", list(self.top)[-1]]
        return {
            "key": self.key,
            "category": self.category,
            "reference": self.reference,
            "target": self.target,
            "overlap": self.overlap,
            "rank": rank + 1,
            "ties": ties,
            "ranks": {"/".join(variant): [better + 1, ties] for variant, (better, ties) in self.ranks.items()},
            "top": {score: [[i, round(value, 6)] for i, value in pairs] for score, pairs in self.top.items()},
        }


def ranks_of(pairs: Sequence[tuple[int, int]]) -> Ranks:
    """(better, ties) pairs as tensors."""
    table = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return Ranks(table[:, 0], table[:, 1])


def averages(values: Mapping[str, Any], ks: Sequence[int]) -> dict[str, Any]:
    """``mean/R@K`` = unweighted mean over categories, ``Avg`` = mean of the means; for numbers or arrays.

    >>> averages({"dress/R@10": 50.0, "shirt/R@10": 60.0, "dress/R@50": 70.0, "shirt/R@50": 80.0}, (10, 50))
    {'mean/R@10': 55.0, 'mean/R@50': 75.0, 'Avg': 65.0}
    """
    means = {}
    for k in ks:
        columns = [value for name, value in values.items() if name.endswith(f"/R@{k}")]
        if columns:
            means[f"mean/R@{k}"] = sum(columns) / len(columns)
    return {**means, "Avg": sum(means.values()) / len(means)} if means else {}


@dataclass(frozen=True)
class RankedTable:
    """Numbers of a set of ranked queries.

    Attributes:
        queries: the outcomes.
        ks: the K of R@K.
    """

    queries: list[RankedQuery]
    ks: tuple[int, ...]

    @cached_property
    def categories(self) -> dict[str, list[RankedQuery]]:
        """Queries of each category, categories sorted."""
        return {c: [q for q in self.queries if q.category == c] for c in sorted({q.category for q in self.queries})}

    @cached_property
    def variants(self) -> list[Variant]:
        """Variants every query has (the caption scores exist only where every category has captions)."""
        present = set.intersection(*(set(q.ranks) for q in self.queries)) if self.queries else set()
        return [(g, r, s) for g in GALLERIES for r in REFERENCES for s in SCORES if (g, r, s) in present]

    def numbers(self) -> dict[Variant, dict[str, float]]:
        """``{variant: {"dress/R@10": percent, ..., "mean/R@10": ..., "Avg": ...}}``."""
        table: dict[Variant, dict[str, float]] = {}
        for variant in self.variants:
            values: dict[str, float] = {}
            for category, queries in self.categories.items():
                recall = recall_percent(ranks_of([q.ranks[variant] for q in queries]), self.ks)
                values.update({f"{category}/{name}": value for name, value in recall.items()})
            table[variant] = {**values, **averages(values, self.ks)}
        return table

    def distributions(self, resamples: int = RESAMPLES) -> dict[Variant, dict[str, np.ndarray[Any, Any]]]:
        """Bootstrap distributions of every number, clusters = reference images within categories.

        The same resamples serve all variants of a category, so that differences between variants are paired.
        """
        spread: dict[Variant, dict[str, np.ndarray[Any, Any]]] = {variant: {} for variant in self.variants}
        for seed, (category, queries) in enumerate(self.categories.items()):
            ranks = [ranks_of([q.ranks[variant] for q in queries]) for variant in self.variants]
            hits = torch.stack([r.hits(k) for r in ranks for k in self.ks], dim=1).numpy() * 100
            columns = iter(resampled_means(hits, [q.reference for q in queries], resamples, seed).T)
            for variant in self.variants:
                spread[variant].update({f"{category}/R@{k}": next(columns) for k in self.ks})
        for values in spread.values():
            values.update(averages(values, self.ks))
        return spread

    def records(
        self,
        protocols: Mapping[Variant, Protocol],
        expected: Mapping[str, int] | None,
        dropped: dict[str, int],
        resamples: int = RESAMPLES,
        **context: Any,
    ) -> list[ResultRecord]:
        """One record per number; ``expected`` holds the full query count per category.

        Intervals: Wilson for the recall of one category, cluster bootstrap for means over categories.
        """
        spread = self.distributions(resamples)
        records = []
        for variant, numbers in self.numbers().items():
            for name, value in numbers.items():
                category = name.split("/")[0]
                queries = self.categories.get(category, self.queries)
                whole = sum(expected.values()) if expected and queries is self.queries else (expected or {}).get(category)
                record = ResultRecord(
                    metric=name,
                    value=value,
                    unit="percent",
                    n=len(queries),
                    n_expected=whole,
                    protocol=str(protocols[variant]),
                    interval=self._interval(name, value, len(queries), spread[variant][name]),
                    ties=sum(q.ranks[variant][1] > 0 for q in queries),
                    dropped=dropped or None,
                    implementation="unifashion_pl.metrics.fashioniq",
                )
                records.append(record.with_context(**context))
        return records

    def _interval(self, name: str, value: float, n: int, distribution: np.ndarray[Any, Any]) -> Interval:
        if name.split("/")[0] in self.categories:
            return wilson_interval(value / 100 * n, n).scaled(100)
        return percentile_interval(distribution, 0.95, f"bootstrap(clusters=reference,B={len(distribution)},seed=category)")
