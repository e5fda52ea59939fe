"""Ranked lists in TREC's form: a run and its qrels, from which trec_eval, pytrec_eval, ranx or ir_measures compute MAP, nDCG, MRR and others.

A line of a run is ``QUERY Q0 DOCUMENT RANK SCORE TAG``, of qrels ``QUERY 0 DOCUMENT 1``. trec_eval reads scores alone, not ranks, and orders equal
ones by name; here right answers stand behind wrong ones that score as they do, as everywhere in this library, and of equal scores each is
written a last bit (of fp32) below the one before. So recall@K, or success@K where a query has several right answers, is the reported R@K.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifashion_pl.files import replacing
from unifashion_pl.metrics.recall import exact_fp32, score_blocks

RUN, QRELS, TAG = ".run", ".qrels", "unifashion-pl"
#: What would end a field, or begin an escape.
ESCAPED = re.compile(r"[\s%\x00-\x1f\x7f]")


class Best(NamedTuple):
    """The best candidates of a query, best first, and their scores (fp32)."""

    names: list[str]
    scores: NDArray[np.float32]


#: Names and :func:`ranking_keys` in any order.
Unranked = tuple[list[str], list[float]]


@dataclass(frozen=True)
class Listing:
    """One query of a run: its name, its best candidates, and the names of its right answers (none = not judged)."""

    query: str
    best: Best
    right: Sequence[str] = ()


@lru_cache(1 << 16)
def trec_id(name: str) -> str:
    """A name as it stands in a file: blanks, control characters and ``%`` as ``%`` and two hexadecimal digits a byte of UTF-8.

    ``urllib.parse.unquote`` gives the name back.

    >>> trec_id("red dress/1.jpg"), trec_id("100%")
    ('red%20dress/1.jpg', '100%25')
    """
    return ESCAPED.sub(lambda found: quote(found[0], safe=""), name)


def best_lists(scores: Tensor, positives: Tensor, names: Sequence[str], most: int, allowed: Tensor | None = None) -> list[Best]:
    """The best candidates of every query, right ones behind wrong ones that score as they do; what else is equal in the order of names.

    Args:
        scores: (N, G), read in fp32. positives: (N, G) bool. names: G candidates.
        most: candidates of a list. allowed: (N, G) or (1, G) bool, those that count; None = all.
    """
    keys = ranking_keys(scores.cpu(), positives.cpu())
    if allowed is not None:
        keys = keys.masked_fill(~allowed.cpu(), float("-inf"))
    best = keys.topk(min(most, keys.shape[1]), dim=1)
    found = zip(best.indices.tolist(), best.values.tolist())
    return [listed([names[i] for i in columns], values, most) for columns, values in found]


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


def write_trec(run: Path, listings: Iterable[Listing]) -> list[Path]:
    """Write ``NAME.run``, and beside it ``NAME.qrels`` if any query has right answers.

    Args:
        run: the run's file; qrels have its name with another ending.

    Returns:
        What was written.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
        ValueError: the file is called as its qrels would be, two queries have one name, or a score is NaN or infinite.
    """
    if run.suffix == QRELS:
        raise ValueError(
            f"{run} would be a run, and {QRELS} is the ending of the right answers beside it: call it {run.stem}{RUN}"
        )
    lists = list(listings)
    names = [trec_id(one.query) for one in lists]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"two queries are called {twice[0]!r}: their lists would be one")
    with replacing(run) as file:
        for name, one in zip(names, lists):
            file.write("".join(_run_lines(name, one.best)).encode())
    if not any(one.right for one in lists):
        return [run]
    beside = run.with_suffix(QRELS)
    with replacing(beside) as file:
        for name, one in zip(names, lists):
            file.write("".join(f"{name} 0 {trec_id(right)} 1\n" for right in sorted({*one.right})).encode())
    return [run, beside]


def _run_lines(query: str, best: Best) -> Iterable[str]:
    if not np.isfinite(best.scores).all():
        raise ValueError(f"scores of the query {query!r} are NaN or infinite")
    scores = best.scores.astype(np.float32)
    for i in np.flatnonzero(scores[1:] >= scores[:-1]) + 1:
        while i < len(scores) and scores[i] >= scores[i - 1]:
            scores[i] = np.nextafter(scores[i - 1], np.float32(-np.inf))
            i += 1
    for rank, (name, score) in enumerate(zip(best.names, scores.tolist()), 1):
        yield f"{query} Q0 {trec_id(name)} {rank} {score:.9g} {TAG}\n"


def write_folder(folder: Path, runs: Mapping[str, Iterable[Listing]]) -> None:
    """Write runs by their names into a folder, instead of those of an earlier test."""
    for old in folder.glob("*--*") if folder.is_dir() else ():
        if old.suffix in (RUN, QRELS):
            old.unlink()
    for name, listings in runs.items():
        folder.mkdir(exist_ok=True)
        write_trec(folder / name, listings)
