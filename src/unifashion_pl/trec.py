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
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from unifashion_pl.files import replacing

RUN, QRELS, TAG = ".run", ".qrels", "unifashion-pl"
#: What would end a field, or begin an escape.
ESCAPED = re.compile(r"[\s%\x00-\x1f\x7f]")


class Best(NamedTuple):
    """The best candidates of a query, best first, and their scores (fp32)."""

    names: list[str]
    scores: NDArray[np.float32]

    def first(self, most: int) -> Best:
        """The first so many of them."""
        return self if len(self.names) <= most else Best(self.names[:most], self.scores[:most])


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
