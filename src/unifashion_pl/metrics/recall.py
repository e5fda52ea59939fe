"""Exact ranks and Recall@K: counting instead of sorting, so that ties are seen and never decided by luck.

For a query with scores s, positives P and allowed set A: ``better`` counts the allowed non-positives that score above the best
positive, ``ties`` those that score exactly the same. Several positives count once. All comparisons are made in fp32 within one
block computation; TF32 and autocast are switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.arguments import choice
from unifashion_pl.metrics.tables import KeyedMetric
from unifashion_pl.team import team_of_all

POLICIES = ("pessimistic", "optimistic", "expected")
Positives = Tensor | Sequence[int] | Sequence[Sequence[int]]


@contextmanager
def exact_fp32(device: torch.device) -> Iterator[None]:
    """Full fp32 matrix products: no autocast, no TF32, no bf16 passes."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class Ranks:
    """Rank of the best positive of N queries: ``better`` and ``ties``, both (N,) int64, positions from 0."""

    better: Tensor
    ties: Tensor

    def hits(self, k: int, policy: str = "pessimistic") -> Tensor:
        """Hit at K per query, (N,) float64 in 0..1.

        ``pessimistic``: better + ties < K; ``optimistic``: better < K; ``expected``: mean over random orders of the ties.
        """
        if choice(policy, "ties", POLICIES) == "expected":
            return ((k - self.better).double() / (self.ties + 1)).clamp(0, 1)
        return (self.better + (self.ties if policy == "pessimistic" else 0) < k).double()

    @property
    def tied(self) -> int:
        """Number of queries whose best positive ties with another candidate."""
        return int((self.ties > 0).sum())

    def __len__(self) -> int:
        return len(self.better)

    def take(self, index: Tensor | Sequence[int]) -> Ranks:
        """Ranks of some of the queries."""
        where = torch.as_tensor(index)
        return Ranks(self.better[where], self.ties[where])


def names_of(mask: Tensor, ids: Sequence[Any] | None, limit: int = 5) -> str:
    """The ids at the true positions of ``mask`` (n,), shortened, for error messages."""
    where = mask.nonzero().flatten().tolist()
    shown = ", ".join(str(ids[i] if ids is not None else f"#{i}") for i in where[:limit])
    return shown + (f" and {len(where) - limit} more" if len(where) > limit else "")


def finite_rows(values: Tensor) -> Tensor:
    """(N,) bool: which rows of (N, G) are finite throughout. Sums tell it at once, unless one of finite numbers overflows."""
    sums = values.sum(1).isfinite()
    return sums if bool(sums.all()) else values.isfinite().all(1)


def positive_mask(positives: Positives, shape: torch.Size, device: torch.device) -> Tensor:
    """Positives as a (N, G) bool mask, from a mask, one index per query, or a list of indices per query."""
    if isinstance(positives, Tensor) and positives.dtype == torch.bool:
        return positives.to(device).expand(shape)
    lists = positives.tolist() if isinstance(positives, Tensor) else positives
    if len(lists) != shape[0]:
        raise ValueError(f"positives of {len(lists)} queries given for {shape[0]} rows of scores")
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, entry in enumerate(lists):
        columns = [int(entry)] if isinstance(entry, int) else list(entry)
        if bad := [c for c in columns if not 0 <= c < shape[1]]:
            raise ValueError(f"positives of query #{row} point outside the gallery of {shape[1]}: {bad[:5]}")
        mask[row, columns] = True
    return mask.to(device)


def _check(scores: Tensor, positives: Tensor, allowed: Tensor | None, ids: Sequence[Any] | None) -> None:
    finite = scores.isfinite() if allowed is None else scores.isfinite() | ~allowed
    if bad := names_of(~finite.all(1), ids):
        raise ValueError(f"scores are not finite for queries {bad}")
    if bad := names_of(~positives.any(1), ids):
        raise ValueError(f"queries without a positive: {bad}")
    if allowed is not None and (bad := names_of((positives & ~allowed).any(1), ids)):
        raise ValueError(f"the positive is outside the allowed candidates (missing from the gallery?) for queries {bad}")


def exact_ranks(
    scores: Tensor, positives: Positives, allowed: Tensor | None = None, ids: Sequence[Any] | None = None, chunk: int = 1024
) -> Ranks:
    """Exact rank of the best positive of every query.

    Args:
        scores: (N, G), higher is better; read in fp32 (float64 stays).
        positives: (N, G) bool, or (N,) column numbers, or a list of column numbers per query.
        allowed: (N, G) or (1, G) bool, candidates that count; None = all.
        ids: N names for error messages.
        chunk: queries compared at once; memory is a few masks of chunk × G.

    Raises:
        ValueError: naming the queries with a non-finite allowed score, without a positive, or with one that is not allowed.

    >>> ranks = exact_ranks(torch.tensor([[0.4, 0.7, 0.7, 0.1, 0.7]]), [2])
    >>> ranks.better.item(), ranks.ties.item()
    (0, 2)
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be (queries, gallery), got shape {tuple(scores.shape)}")
    if scores.dtype != torch.float64:
        scores = scores.float()
    every = positive_mask(positives, scores.shape, scores.device)
    mask = allowed.to(scores.device).expand(scores.shape) if allowed is not None else None
    better, ties = [], []
    for start in range(0, len(scores), chunk):
        part = slice(start, start + chunk)
        own, may = every[part], mask[part] if mask is not None else None
        _check(scores[part], own, may, ids[part] if ids is not None else None)
        best = scores[part].masked_fill(~own, float("-inf")).amax(1, keepdim=True)
        others = ~own if may is None else may & ~own
        better.append(((scores[part] > best) & others).sum(1))
        ties.append(((scores[part] == best) & others).sum(1))
    empty = torch.zeros(0, dtype=torch.int64, device=scores.device)
    return Ranks(torch.cat([empty, *better]).cpu(), torch.cat([empty, *ties]).cpu())


def recall_percent(ranks: Ranks, ks: Sequence[int], policy: str = "pessimistic") -> dict[str, float]:
    """``{"R@K": percent}`` of N > 0 queries."""
    return {f"R@{k}": 100.0 * float(ranks.hits(k, policy).mean()) for k in ks}


def max_similarity(tokens: Tensor, vectors: Tensor, out: Tensor | None = None) -> Tensor:
    """max over tokens of the dot product: tokens (N, Q, E), vectors (M, E) -> (N, M); holds N × Q × M floats, in ``out`` if given."""
    n, q, _ = tokens.shape
    return torch.mm(tokens.flatten(0, 1), vectors.T, out=out).view(n, q, -1).amax(1)


def padded(rows: Tensor, height: int) -> Tensor:
    """Zero rows appended up to ``height``: equal shapes make equal inputs give equal last bits in a matrix product."""
    return rows if len(rows) == height else torch.cat([rows, rows.new_zeros(height - len(rows), *rows.shape[1:])])


def block_height(n: int, most: int) -> int:
    """Power of two that holds ``n`` rows, at most ``most``."""
    return min(most, 1 << max(0, n - 1).bit_length())


def token_scores(vectors: Tensor, tokens: Tensor, height: int = 256, device: torch.device | None = None) -> Tensor:
    """Scores of query vectors (N, E) against a gallery of token sets (G, Q, E) -> (N, G) on ``device``.

    The gallery is walked in blocks of ``height``; N × Q × height floats are held, never N × G × Q.
    """
    device = device or vectors.device
    vectors = vectors.to(device)
    height = block_height(len(tokens), height)
    parts = [max_similarity(padded(part.to(device), height), vectors)[: len(part)].T for part in tokens.split(height)]
    return torch.cat(parts, dim=1) if parts else vectors.new_zeros(len(vectors), 0)


def two_way_ranks(
    tokens: Tensor,
    token_groups: Tensor,
    vectors: Tensor,
    vector_groups: Tensor,
    heights: tuple[int, int] = (256, 1024),
    device: torch.device | None = None,
    reduce: Callable[[Tensor, str], Tensor] = lambda values, how: values,
) -> tuple[Ranks, Ranks]:
    """Ranks by rows (token sets as queries) and by columns (vectors as queries) of one score matrix that is never stored.

    Equal groups are positives. Pass 1 takes the best positive from the blocks that hold positives, pass 2 repeats the same
    block computations and counts. Rows may be one rank's share of the whole set; ``reduce`` then works over ranks.

    Args:
        tokens: (N, Q, E); token_groups: (N,) int64.
        vectors: (M, E), the same on every rank; vector_groups: (M,) int64.
        heights: block heights over token sets and vectors, the same on every rank.
        reduce: ``(values, "sum" | "max") -> values`` over ranks.

    Raises:
        ValueError: a non-finite score, or a row or column without positive.
    """
    device = device or tokens.device
    row_best = torch.full((len(tokens),), float("-inf"), device=device)
    column_best = torch.full((len(vectors),), float("-inf"), device=device)
    every = tokens, token_groups, vectors, vector_groups
    with exact_fp32(device):
        for r, c, scores, positives in score_blocks(*every, heights, device, only_positives=True):
            own = scores.masked_fill(~positives, float("-inf"))
            row_best[r] = torch.maximum(row_best[r], own.amax(1))
            column_best[c] = torch.maximum(column_best[c], own.amax(0))
        column_best = reduce(column_best, "max")
        rows = torch.zeros(2, len(tokens), dtype=torch.int64, device=device)
        columns = torch.zeros(2, len(vectors), dtype=torch.int64, device=device)
        finite = bool(row_best.isfinite().all()) and bool(column_best.isfinite().all())
        for r, c, scores, positives in score_blocks(*every, heights, device):
            finite = finite and bool(scores.isfinite().all())
            for counts, best, where, axis in ((rows, row_best[r, None], r, 1), (columns, column_best[None, c], c, 0)):
                counts[0, where] += ((scores > best) & ~positives).sum(axis)
                counts[1, where] += ((scores == best) & ~positives).sum(axis)
    columns = reduce(columns, "sum")
    if bool(reduce(torch.tensor([not finite], dtype=torch.int64), "max")):
        raise ValueError("image-text scores are not finite, or a query has no positive")
    return Ranks(rows[0].cpu(), rows[1].cpu()), Ranks(columns[0].cpu(), columns[1].cpu())


def score_blocks(
    tokens: Tensor,
    token_groups: Tensor,
    vectors: Tensor,
    vector_groups: Tensor,
    heights: tuple[int, int],
    device: torch.device,
    only_positives: bool = False,
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Row slice, column slice, scores and positives of every block of a score matrix, or of those that hold positives."""
    high, wide = heights
    # one buffer for all blocks: the system would have to clear 34 MB anew for each of thousands
    buffer = tokens.new_empty(high * tokens.shape[1], wide, device=device)
    for top in range(0, len(tokens), high):
        rows = slice(top, min(top + high, len(tokens)))
        block: Tensor | None = None
        for left in range(0, len(vectors), wide):
            columns = slice(left, min(left + wide, len(vectors)))
            positives = token_groups[rows, None] == vector_groups[None, columns]
            if only_positives and not bool(positives.any()):
                continue
            if block is None:
                block = padded(tokens[rows].to(device), high)
            scores = max_similarity(block, padded(vectors[columns].to(device), wide), buffer)
            yield rows, columns, scores[: positives.shape[0], : positives.shape[1]], positives.to(device)


class RecallAtK(KeyedMetric):
    """Recall@K in percent from score rows.

    Args:
        ks: the K of R@K.
        ties: ``pessimistic`` (default), ``optimistic`` or ``expected``; see :meth:`Ranks.hits`.

    ``compute`` returns ``{"R@1": percent, ..., "n": queries, "tied": queries with ties}``, or ``{}`` when no rank has a query.
    Queries with equal ``ids`` count once, also over ranks.

    >>> metric = RecallAtK(ks=(1, 3))
    >>> metric.update(torch.tensor([[0.4, 0.7, 0.7, 0.1, 0.7], [0.9, 0.1, 0.2, 0.3, 0.4]]), [2, 0])
    >>> metric.compute()
    {'R@1': 50.0, 'R@3': 100.0, 'n': 2.0, 'tied': 1.0}
    """

    def __init__(self, ks: Sequence[int] = (1, 5, 10), ties: str = "pessimistic", **kwargs: Any) -> None:
        super().__init__("queries", **kwargs)
        self.ks, self.ties = tuple(ks), choice(ties, "ties", POLICIES)
        self._anonymous = 0

    def update(
        self, scores: Tensor, positives: Positives, allowed: Tensor | None = None, ids: Sequence[Any] | None = None
    ) -> None:
        """Rank a block of queries; arguments and errors as in :func:`exact_ranks`."""
        ranks = exact_ranks(scores, positives, allowed, ids)
        if ids is None:
            ids = [("row", team_of_all().rank, self._anonymous + i) for i in range(len(ranks))]
            self._anonymous += len(ranks)
        self._store("queries", ids, {}, {"better": ranks.better, "ties": ranks.ties})

    def compute(self) -> dict[str, float]:
        """Recall over all queries of all ranks."""
        team = self._team()
        rows = team.rows(team.own(self._local("queries")))
        if not len(rows):
            return {}
        ranks = Ranks(rows.tensors["better"], rows.tensors["ties"])
        return {**recall_percent(ranks, self.ks, self.ties), "n": float(len(ranks)), "tied": float(ranks.tied)}
