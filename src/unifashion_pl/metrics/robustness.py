"""Robustness of composed retrieval, from result lists and ranks alone: agreement of lists, products, rounds.

No labels are needed: what a rewriting (:mod:`unifashion_pl.data.rewriting`) should do to a result list follows from the rewriting.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from unifashion_pl.metrics.recall import Ranks, exact_ranks


def overlap_at(first: Sequence[Hashable], second: Sequence[Hashable], k: int = 10) -> float:
    """Share of the first ``k`` entries that two result lists have in common, 0..1; the order inside them does not count.

    Lists shorter than ``k`` (small galleries) are compared in full.

    Raises:
        ValueError: ``k`` below 1, or an empty list.

    >>> overlap_at(["a", "b", "c", "d"], ["d", "a", "x", "b"], 2)
    0.5
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    if not first or not second:
        raise ValueError(f"cannot compare result lists of {len(first)} and {len(second)} entries: both must have some")
    ours, theirs = set(first[:k]), set(second[:k])
    return len(ours & theirs) / max(len(ours), len(theirs))


def product_scores(scores: Tensor, products: Sequence[int], count: int) -> Tensor:
    """Score of a product = that of its best image.

    Args:
        scores: (N, G), higher is better.
        products: number of the product that each of the G images shows, 0..count-1.
        count: number of products P.

    Returns:
        (N, P) on the device of ``scores``; -inf for products without an image here.

    Raises:
        ValueError: another number of products than columns, or one outside 0..count-1.

    >>> product_scores(torch.tensor([[0.1, 0.7, 0.4]]), [0, 0, 1], 2)
    tensor([[0.7000, 0.4000]])
    """
    if len(products) != scores.shape[1]:
        raise ValueError(f"products of {len(products)} images given for {scores.shape[1]} columns of scores")
    if bad := [p for p in products if not 0 <= p < count]:
        raise ValueError(f"product numbers must be 0..{count - 1}, got {bad[:5]}")
    columns = torch.as_tensor(products, dtype=torch.int64, device=scores.device).expand(scores.shape)
    best = scores.new_full((len(scores), count), float("-inf"))
    return best.scatter_reduce(1, columns, scores, "amax", include_self=True)


def product_ranks(
    scores: Tensor, products: Sequence[Hashable], targets: Sequence[Hashable], ids: Sequence[Hashable] | None = None
) -> Ranks:
    """Exact rank of the target's product among the products, each standing where its best image stands.

    Args:
        scores: (N, G), higher is better.
        products: name of the product that each of the G images shows.
        targets: name of the product that each of the N queries looks for.
        ids: N names for error messages.

    Raises:
        ValueError: a target without an image, or a non-finite score.

    >>> product_ranks(torch.tensor([[0.9, 0.8, 0.7, 0.1]]), ["a", "a", "b", "b"], ["b"]).better.tolist()
    [1]
    """
    codes: dict[Hashable, int] = {}
    columns = [codes.setdefault(product, len(codes)) for product in products]
    if missing := sorted({str(t) for t in targets if t not in codes}):
        raise ValueError(f"products without an image in the gallery of {len(products)}: {', '.join(missing[:5])}")
    return exact_ranks(product_scores(scores, columns, len(codes)), [codes[t] for t in targets], ids=ids)


def success_by_round(ranks: Sequence[Sequence[int]], k: int, rounds: int) -> list[list[bool]]:
    """Whether the target had come under the first ``k`` by the end of each round, per dialogue.

    Args:
        ranks: per dialogue the target's rank in each round (from 0, ties counted against it); a dialogue may end early.
        k: length of the list that the user looks at.
        rounds: rounds to report.

    >>> success_by_round([[4, 0], [9, 9, 9]], 1, 3)
    [[False, True, True], [False, False, False]]
    """
    return [[any(rank < k for rank in own[: r + 1]) for r in range(rounds)] for own in ranks]
