"""The best candidates of queries, as :mod:`unifashion_pl.trec` writes them: right answers stand behind wrong ones that score as they do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby

import numpy as np
import torch
from torch import Tensor

from unifashion_pl.metrics.recall import exact_fp32, score_blocks
from unifashion_pl.trec import Best

#: Names and :func:`ranking_keys` in any order.
Unranked = tuple[list[str], list[float]]


def best_lists(scores: Tensor, positives: Tensor, names: Sequence[str], most: int, allowed: Tensor | None = None) -> list[Best]:
    """The best candidates of every query, right ones behind wrong ones that score as they do; what else is equal in the order of names.

    Args:
        scores: (N, G), read in fp32. positives: (N, G) bool. names: G candidates.
        most: candidates of a list. allowed: (N, G) or (1, G) bool, those that count; None = all.
    """
    return [listed(*one, most) for one in best_keys(scores, positives, names, most, allowed)]


def best_keys(
    scores: Tensor, positives: Tensor, names: Sequence[str], most: int, allowed: Tensor | None = None
) -> list[Unranked]:
    """What :func:`over_ranks` makes the lists of :func:`best_lists` of: whatever is as good as the last of a list."""
    keys = ranking_keys(scores.cpu(), positives.cpu())
    if allowed is not None:
        keys = keys.masked_fill(~allowed.cpu(), float("-inf"))
    found: list[Unranked] = [([], []) for _ in keys]
    if not (most := min(most, keys.shape[1])):
        return found
    rows, columns = ((keys >= keys.topk(most, dim=1).values[:, -1:]) & (keys > float("-inf"))).nonzero(as_tuple=True)
    for row, column, key in zip(rows.tolist(), columns.tolist(), keys[rows, columns].tolist()):
        found[row][0].append(names[column])
        found[row][1].append(key)
    return found


def ranking_keys(scores: Tensor, positives: Tensor) -> Tensor:
    """Scores in fp64, those of right answers less by less than fp32 can hold: whatever sorts by them counts ties against the query."""
    keys = scores.float().double()
    return torch.where(positives, torch.nextafter(keys, torch.tensor(float("-inf"), dtype=torch.float64)), keys)


def two_way_lists(
    tokens: Tensor,
    token_groups: Tensor,
    vectors: Tensor,
    vector_groups: Tensor,
    heights: tuple[int, int],
    device: torch.device,
    names: tuple[Sequence[str], Sequence[str]],
    most: int,
) -> tuple[list[Best], list[Unranked]]:
    """The lists that :func:`~unifashion_pl.metrics.recall.two_way_ranks` counts in: of every token set, and of every vector among these token sets.

    Args:
        tokens, token_groups, vectors, vector_groups, heights, device: of that function, so that the scores are the same to the last bit.
        names: of the token sets, and of the vectors. most: candidates of a list.

    Returns:
        Lists of this rank's token sets, and what :func:`over_ranks` makes the vectors' lists of.
    """
    by_row: list[Best] = []
    keys, places = torch.zeros(len(vectors), 0, dtype=torch.float64), torch.zeros(len(vectors), 0, dtype=torch.int64)
    with exact_fp32(device):
        blocks = score_blocks(tokens, token_groups, vectors, vector_groups, heights, device)
        for rows, row_of_blocks in groupby(blocks, key=lambda block: block[0]):
            parts = [(scores.cpu().clone(), positives.cpu()) for _, _, scores, positives in row_of_blocks]
            scores, positives = (torch.cat(part, dim=1) for part in zip(*parts))
            by_row += best_lists(scores, positives, names[1], most)
            here = torch.arange(rows.start, rows.stop).expand(len(vectors), -1)
            keys, places = torch.cat([keys, ranking_keys(scores, positives).T], dim=1), torch.cat([places, here], dim=1)
            best = keys.topk(min(most, keys.shape[1]), dim=1)
            keys, places = best.values, places.gather(1, best.indices)
    return by_row, [([names[0][i] for i in row], found) for row, found in zip(places.tolist(), keys.tolist())]


def over_ranks(parts: Sequence[Sequence[Unranked]], most: int) -> list[Best]:
    """One list for each vector, from what all ranks have for it."""
    return [
        listed(list(chain(*(names for names, _ in one))), list(chain(*(keys for _, keys in one))), most) for one in zip(*parts)
    ]


def listed(names: Sequence[str], keys: Sequence[float], most: int) -> Best:
    """A list from its names and :func:`ranking_keys`, in any order; what is not allowed (-inf) is left out."""
    order = sorted((-key, name) for key, name in zip(keys, names) if key > float("-inf"))[:most]
    return Best([name for _, name in order], np.array([-key for key, _ in order], np.float32))
