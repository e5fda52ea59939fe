"""What vectors know of categories: precision of ranked lists, and a linear probe.

Letters: N queries or samples, M candidates, W width, C categories.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn


def precision_at(scores: ArrayLike, right: ArrayLike, k: int, itself: bool = False) -> NDArray[np.float64]:
    """Share of right answers among the best ``k`` candidates of each query, (N,); a tie counts against the query.

    Args:
        scores: (N, M), larger is better. right: (N, M) bool.
        k: where fewer candidates than these can be right, no ranking reaches 1.
        itself: candidate i is query i, and no answer to it.

    Raises:
        ValueError: fewer than ``k`` candidates, or ``k`` below 1.

    >>> precision_at([[0.9, 0.5, 0.5]], [[True, False, True]], 2).tolist()
    [0.5]
    """
    found, good = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    if itself:
        found, good = found.copy(), good.copy()
        np.fill_diagonal(found, -np.inf)
        np.fill_diagonal(good, False)
    if not 0 < k <= found.shape[1] - itself:
        raise ValueError(f"precision at {k} of {found.shape[1] - itself} candidates: expected at least 1 and at most so many")
    best = np.lexsort((good, -found))[:, :k]
    return np.asarray(np.take_along_axis(good, best, 1).mean(1), dtype=np.float64)


def linear_probe(features: Tensor, labels: Sequence[str], asked: Tensor, decay: float = 1e-3, steps: int = 300) -> list[str]:
    """Labels (N) by multinomial logistic regression on standardised features: what frozen features know without any text.

    Deterministic: the weights start at 0, and the loss is convex. The penalty is ``decay`` times the sum of the weights' squares.

    Args:
        features: (M, W) of samples whose ``labels`` are known. asked: (N, W).
        decay: weight decay. steps: of L-BFGS at most.

    Raises:
        ValueError: no samples, or another number of labels.
    """
    if not len(labels) or len(labels) != len(features):
        raise ValueError(
            f"a probe learns from features with their labels, got {len(features)} features and {len(labels)} labels"
        )
    known = sorted(set(labels))
    target = torch.tensor([known.index(label) for label in labels])
    mean, std = features.float().mean(0), features.float().std(0, correction=0) + 1e-6
    x, y = (features.float() - mean) / std, (asked.float() - mean) / std
    layer = nn.Linear(x.shape[1], len(known))
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(x), target) + decay * layer.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return [known[int(one)] for one in layer(y).argmax(1)]
