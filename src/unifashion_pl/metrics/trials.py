"""Candidate lists scored and ranked, thousands at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifashion_pl.metrics.best import best_lists
from unifashion_pl.metrics.candidates import Catalogue, Trial
from unifashion_pl.metrics.ranked import RankedQuery, Variant
from unifashion_pl.metrics.recall import exact_fp32, padded
from unifashion_pl.team import Rows
from unifashion_pl.trec import Best

Numbers = NDArray[np.int64]
#: Texts that a view is compared with at once; always so many, because equal shapes make equal inputs give equal last bits.
WIDTH = 128


@dataclass(frozen=True)
class Numbered:
    """Trials in numbers.

    Attributes:
        rows, products: of all trials, one after the other.
        heights, widths: rows and products of each trial.
    """

    rows: Numbers
    products: Numbers
    heights: Numbers
    widths: Numbers

    @classmethod
    def of(cls, trials: Sequence[Trial], rows: Mapping[Any, int], products: Mapping[Any, int]) -> Numbered:
        """By the numbers of rows and products; -1 for a row that has none."""
        sizes = [(len(trial.rows), len(trial.products)) for trial in trials]
        heights, widths = np.array(sizes, np.int64).reshape(-1, 2).T
        named = chain.from_iterable(trial.rows for trial in trials)
        shown = np.fromiter(map(rows.get, named, repeat(-1)), np.int64, int(heights.sum()))
        worded = chain.from_iterable(trial.products for trial in trials)
        return cls(shown, np.fromiter(map(products.__getitem__, worded), np.int64, int(widths.sum())), heights, widths)

    def pairs(self) -> tuple[Numbers, Numbers]:
        """Row and product of every score, the matrices of all trials one after the other."""
        sizes = self.heights * self.widths
        inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        across = np.repeat(self.widths, sizes)
        tops, lefts = (np.repeat(np.cumsum(n) - n, sizes) for n in (self.heights, self.widths))
        return self.rows[tops + inside // across], self.products[lefts + inside % across]


def trial_scores(trials: Sequence[Trial], images: Rows, texts: Rows, device: torch.device) -> Tensor:
    """Scores of all trials, flattened one after the other (rows × products); rows that are not here score 0.

    Every view is read once, and compared with the texts of all trials that it stands in.
    """
    row_at, text_at = ({name: i for i, name in enumerate(rows.ids)} for rows in (images, texts))
    rows, products = Numbered.of(trials, row_at, text_at).pairs()
    scores = torch.zeros(len(rows))
    order = np.argsort(rows, kind="stable")
    order = order[np.searchsorted(rows[order], 0) :]
    if not len(order):
        return scores
    tokens, vectors = images.tensors["tokens"].to(device), texts.tensors["embeddings"].to(device)
    wanted = torch.from_numpy(products[order]).to(device)
    views, starts = np.unique(rows[order], return_index=True)
    found = torch.empty(len(order), device=device)
    with exact_fp32(device):
        for view, start, end in zip(views.tolist(), starts.tolist(), [*starts[1:].tolist(), len(order)]):
            for left in range(start, end, WIDTH):
                among = slice(left, min(left + WIDTH, end))
                asked = padded(vectors.index_select(0, wanted[among]), WIDTH)
                found[among] = (tokens[view] @ asked.T).amax(0)[: among.stop - left]
    scores[torch.from_numpy(order)] = found.cpu()
    return scores


def rank_trials(
    trials: Sequence[Trial], scores: Tensor, catalogue: Catalogue, wording: Mapping[Any, str], most: int = 0
) -> list[RankedQuery]:
    """Exact ranks of the queries of all trials, both directions, and lists of their ``most`` best candidates."""
    number = {product: i for i, product in enumerate(catalogue.kind_of)}
    same: dict[str, int] = {}
    words = np.array([same.setdefault(wording[product], len(same)) for product in number], np.int64)
    of_row = {row: number[product] for row, product in catalogue.product_of.items()}
    laid = Numbered.of(trials, of_row, number)
    found: list[list[RankedQuery]] = [[] for _ in trials]
    for direction, members, matrices, own, among in _sides(trials, scores.numpy(), laid):
        best = np.take_along_axis(matrices, own[:, None], 1)
        better = (matrices > best).sum(1).tolist()
        ties = ((matrices == best).sum(1) - 1).tolist()
        mine = np.take_along_axis(among, own[:, None], 1)
        twins = ((among != mine) & (words[among] == words[mine])).any(1).tolist()
        for i, (member, at) in enumerate(zip(members, own.tolist())):
            trial = trials[member]
            names = trial.products if direction == "i2t" else trial.rows
            key, product = trial.queries(direction)[at], trial.products[at]
            facts = {"candidates": len(names), "undecidable": twins[i]}
            best_of: dict[Variant, Best] = {}
            if most:
                right = torch.zeros(1, len(names), dtype=torch.bool)
                right[0, at] = True
                best_of[()] = best_lists(torch.from_numpy(matrices[i : i + 1]), right, names, most)[0]
            place: dict[Variant, tuple[int, int]] = {(): (better[i], ties[i])}
            found[member].append(RankedQuery(key, direction, product, place, trial.draw, facts, best_of, (names[at],)))
    return [query for queries in found for query in queries]


def _sides(
    trials: Sequence[Trial], scores: NDArray[np.float32], laid: Numbered
) -> Iterator[tuple[str, list[int], NDArray[np.float32], Numbers, Numbers]]:
    """Queries that have equally many candidates: direction, trial, scores (N, C), place of the right answer (N,), products (N, C)."""
    rows, products = laid.pairs()
    sizes = laid.heights * laid.widths
    starts = np.cumsum(sizes) - sizes
    alike: dict[tuple[str, int], list[int]] = {}
    for member, (trial, size) in enumerate(zip(trials, sizes.tolist())):
        alike.setdefault((trial.direction, size), []).append(member)
    for (direction, size), members in alike.items():
        where = starts[members][:, None] + np.arange(size)
        if direction != "both":
            among = products if direction == "i2t" else rows
            yield direction, members, scores[where], np.zeros(len(members), np.int64), among[where]
            continue
        side = round(size**0.5)
        for member, block in zip(members, where.reshape(len(members), side, side)):
            own = np.arange(side)
            yield "i2t", [member] * side, scores[block], own, products[block]
            yield "t2i", [member] * side, scores[block.T], own, rows[block.T]
