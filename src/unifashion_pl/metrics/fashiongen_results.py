"""From ranked image-text queries to numbers, intervals over products and the spread over draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from unifashion_pl.metrics.intervals import RESAMPLES, cluster_codes, cluster_sums, percentile_interval, resampled_sums
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.recall import Ranks, join
from unifashion_pl.metrics.records import Interval, ResultRecord

DIRECTIONS = ("i2t", "t2i")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ranking:
    """Ranked queries of one direction, as columns.

    Attributes:
        direction: ``i2t`` or ``t2i``.
        draws, queries, products: per query: its draw, its id (row or product) and its product.
        sizes: number of candidates.
        undecidable: another candidate has literally the query's text.
        ranks: exact ranks.
    """

    direction: str
    draws: list[int] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    products: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    undecidable: list[bool] = field(default_factory=list)
    ranks: Ranks = field(default_factory=lambda: join([]))

    def __len__(self) -> int:
        return len(self.queries)

    def recall(self, k: int) -> list[float]:
        """R@k in percent of every draw."""
        hits, draws = self.ranks.hits(k), torch.tensor(self.draws)
        return [100.0 * float(hits[draws == d].mean()) for d in sorted(set(self.draws))]


def joined(parts: Sequence[Ranking]) -> Ranking:
    """Concatenate rankings of one direction and sort them by draw and query."""
    draws = [d for part in parts for d in part.draws]
    queries = [q for part in parts for q in part.queries]
    order = sorted(range(len(queries)), key=lambda i: (draws[i], queries[i]))

    def column(name: str) -> list[Any]:
        values = [v for part in parts for v in getattr(part, name)]
        return [values[i] for i in order]

    ranks = join([part.ranks for part in parts])
    where = torch.tensor(order, dtype=torch.int64)
    columns = {name: column(name) for name in ("draws", "queries", "products", "sizes", "undecidable")}
    return Ranking(parts[0].direction, ranks=ranks.take(where), **columns)


@dataclass(frozen=True)
class ProtocolResult:
    """Both directions under one protocol.

    Attributes:
        name: e.g. ``fashiongen_100``.
        protocol: all that there is to say of it.
        directions: ``i2t`` and ``t2i``.
        dropped: reason -> number left out.
        filled: candidates that are not of the query's subcategory.
    """

    name: str
    protocol: Protocol
    directions: dict[str, Ranking]
    dropped: dict[str, int]
    filled: int

    def numbers(self, ks: Sequence[int]) -> dict[str, float]:
        """``{"i2t/R@1": percent, ..., "mean": ...}``: recall averaged over draws, and the mean of all of them."""
        values = {f"{d}/R@{k}": float(np.mean(self.directions[d].recall(k))) for d in DIRECTIONS for k in ks}
        return {**values, "mean": sum(values.values()) / len(values)}

    def counts(self) -> dict[str, float]:
        """Queries over both directions and all draws, ties, undecidable queries, filled candidates."""
        both = list(self.directions.values())
        return {
            "n": float(sum(map(len, both))),
            "tied": float(sum(r.ranks.tied for r in both)),
            "undecidable": float(sum(sum(r.undecidable) for r in both)),
            "filled": float(self.filled),
        }

    def distributions(self, ks: Sequence[int], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Array]:
        """Bootstrap distribution of every number: products are drawn, each with all its queries of all draws."""
        codes = cluster_codes([p for d in DIRECTIONS for p in self.directions[d].products])
        columns, names = [], []
        for d in DIRECTIONS:
            ranking = self.directions[d]
            inside = np.repeat([d == other for other in DIRECTIONS], [len(self.directions[o]) for o in DIRECTIONS])
            for draw in sorted(set(ranking.draws)):
                column = np.zeros((len(codes), len(ks) + 1))
                own = np.array(ranking.draws) == draw
                hits = torch.stack([*(ranking.ranks.hits(k) for k in ks), torch.ones(len(ranking)).double()], dim=1)
                column[inside] = hits.numpy() * own[:, None]
                columns.append(column)
                names.append(d)
        sums = cluster_sums(np.concatenate(columns, axis=1), codes, int(codes.max()) + 1)
        totals = resampled_sums(sums, resamples, seed).reshape(resamples, len(names), len(ks) + 1)
        with np.errstate(invalid="ignore"):
            means = 100 * totals[:, :, :-1] / totals[:, :, -1:]
        spread = {
            f"{d}/R@{k}": np.nanmean(means[:, [n == d for n in names], i], axis=1) for d in DIRECTIONS for i, k in enumerate(ks)
        }
        return {**spread, "mean": np.mean(list(spread.values()), axis=0)}

    def records(self, ks: Sequence[int], resamples: int = RESAMPLES, **context: Any) -> list[ResultRecord]:
        """One record per number, and ``.../sd_over_draws`` where there are several draws."""
        spread = self.distributions(ks, resamples)
        method = f"bootstrap(clusters=product,B={resamples},seed=0)"
        records = []
        for name, value in self.numbers(ks).items():
            interval = percentile_interval(spread[name], 0.95, method)
            records.append(self._record(name, value, interval).with_context(**context))
        for d in DIRECTIONS:
            for k in ks:
                recalls = self.directions[d].recall(k)
                if len(recalls) > 1:
                    sd = float(np.std(recalls, ddof=1))
                    records.append(self._record(f"{d}/R@{k}/sd_over_draws", sd, None).with_context(**context))
        return records

    def _record(self, name: str, value: float, interval: Interval | None) -> ResultRecord:
        parts = [self.directions[d] for d in DIRECTIONS if name.startswith(d) or name == "mean"]
        return ResultRecord(
            metric=name,
            value=value,
            unit="percent",
            n=sum(map(len, parts)),
            protocol=str(self.protocol),
            interval=interval,
            ties=sum(r.ranks.tied for r in parts),
            dropped=self.dropped or None,
            implementation="unifashion_pl.metrics.fashiongen",
        )

    def per_query(self) -> list[dict[str, Any]]:
        """One plain record per query; ``rank`` and ``ties`` as in prediction files (:mod:`unifashion_pl.report.lines`)."""
        return [
            {
                "protocol": self.name,
                "direction": d,
                "draw": r.draws[i],
                "query": r.queries[i],
                "product": r.products[i],
                "rank": int(r.ranks.better[i]) + 1,
                "ties": int(r.ranks.ties[i]),
                "candidates": r.sizes[i],
                "undecidable": r.undecidable[i],
            }
            for d, r in self.directions.items()
            for i in range(len(r))
        ]
