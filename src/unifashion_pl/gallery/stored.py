"""An index as it was read, of whatever form, and its vectors written anew: without what is gone, and many small files as one. Letters: M images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from unifashion_pl.gallery.rows import IndexRows, Live
from unifashion_pl.gallery.scan import Corpus
from unifashion_pl.gallery.segments import Coded, Segment, TokenSet, numbered

#: Rows of a small file, and how many small ones may be; share of a file that may be gone before it is written anew.
SMALL, MOST, GONE = 4096, 32, 0.5
#: Name of the row by which vectors on their way into an index say how far they came; an index has none.
NOTE = "embedding"


@dataclass(frozen=True)
class Rate:
    """A share of ``n`` with its 95 % interval."""

    share: float
    n: int
    low: float
    high: float

    @property
    def text(self) -> str:
        return f"{100 * self.share:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f}, n = {self.n})"


@dataclass(frozen=True)
class Threshold:
    """The best score of a text below which nothing in an index matches, see :mod:`unifashion_pl.gallery.calibration`.

    Attributes:
        score: the threshold. images: that the index had.
        rejected: queries with right answers there that it takes for unanswerable. accepted: the same queries without their right answers that it
            takes for answerable. foreign: the same of texts of another trade, if there were any.
    """

    score: float
    images: int
    rejected: Rate
    accepted: Rate
    foreign: Rate | None = None

    @property
    def text(self) -> str:
        """In words."""
        strange = "" if self.foreign is None else f", and {self.foreign.text} of texts that mean nothing here"
        return (
            f"{self.score:.3f}, which rejects {self.rejected.text} of the texts with right answers here and lets pass {self.accepted.text} of "
            f"those whose right answers were taken out{strange}"
        )


@dataclass(frozen=True)
class IndexSettings:
    """Whose vectors they are, and how they are kept.

    Attributes:
        query_set: sets that the index has. model: fingerprint of the model that made them.
        storage: fp32, fp16 or int8. pool: tokens of an image after pooling; None = all.
        coarse: tokens of an image that a search of very many reads first; None = it reads all.
        appearance: fingerprint of what made their appearance vectors; None = they have none.
        threshold: below which a text finds nothing; None = not calibrated.
    """

    query_set: Literal["reference", "target", "both"]
    model: str
    storage: Literal["fp32", "fp16", "int8"] = "fp32"
    pool: int | None = None
    coarse: int | None = None
    appearance: str | None = None
    threshold: Threshold | None = None


@dataclass(frozen=True)
class Note:
    """How far a run of embedding came.

    Attributes:
        index, of: its shard. done: whether it came to its end.
        left_out: id -> what is wrong with its picture.
    """

    index: int = 0
    of: int = 1
    done: bool = False
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """An index: its rows in memory, and vectors that are mapped, or new and in memory too.

    Attributes:
        state: of the folder when it was read, which changes with every change of the index there.
        folder: where it was read from or written to, from the root on; ``.`` = nowhere yet.
        note: of vectors on their way into an index; None of an index.
    """

    settings: IndexSettings
    rows: IndexRows
    segments: dict[int, Segment]
    state: str = ""
    folder: Path = Path()
    note: Note | None = None

    @property
    def corpus(self) -> Corpus:
        """The vectors of all images that are there."""
        return Corpus(self.segments, self.rows.live())


def no_index(folder: Path) -> ValueError:
    """What is said where an index is meant, and vectors on their way are there."""
    return ValueError(
        f"{folder} is no index: it holds vectors of `unifashion index embed`, of which "
        "`unifashion index build --vectors FOLDER --out INDEX` makes one"
    )


def worth_packing(rows: IndexRows, held: Mapping[int, Segment]) -> list[list[int]]:
    """Groups of segments to become one each: those of which most is gone, and the smaller half of very many small ones.

    So an image that is added is written again a few times, as its file grows, and never with the large ones.
    """
    live = rows.live()
    count = {number: int((live.segments == number).sum()) for number in held}
    gone = [number for number, segment in held.items() if count[number] <= GONE * segment.rows]
    small = sorted(
        (number for number in held if number not in gone and count[number] < SMALL), key=lambda number: count[number]
    )
    return [*([number] for number in gone), *([small[: len(small) // 2]] if len(small) > MOST else [])]


def packed(
    live: Live, held: Mapping[int, Segment], groups: Sequence[Sequence[int]]
) -> tuple[dict[int, Segment], list[tuple[int, int, int, int]]]:
    """The live rows of each group of segments as one segment in memory.

    Returns:
        The new segments by new numbers, and (segment, place, captioned, key) of each of their rows. A segment that is whole and alone in its
        group stays as it is.
    """
    new: dict[int, Segment] = {}
    places: list[tuple[int, int, int, int]] = []
    corpus = Corpus(held, live)
    number = max(held, default=-1) + 1
    for group in groups:
        positions = np.flatnonzero(np.isin(live.segments, group))
        if not len(positions):
            continue
        captioned = numbered(live.captioned[positions] >= 0)
        if (
            len(group) == 1
            and len(positions) == held[group[0]].rows
            and (live.places[positions] == np.arange(len(positions))).all()
        ):
            new[number], captioned = Segment(held[group[0]].sets), live.captioned[positions].tolist()
        else:
            new[number] = Segment(_gathered(corpus, group))
        keys = live.keys[positions].tolist()
        places += zip([number] * len(keys), range(len(keys)), captioned, keys)
        number += 1
    return new, places


def _gathered(corpus: Corpus, group: Sequence[int]) -> dict[str, TokenSet]:
    """Sets of the live rows of some segments, in the order of their keys."""
    members = [corpus.segments[number] for number in group]
    names = dict.fromkeys(name for segment in members for name in segment.sets)
    inside = np.flatnonzero(np.isin(corpus.live.segments, group))
    out = {}
    for name in names:
        row = corpus.live.captioned if name == "captions" else corpus.live.places
        parts, order = [], []
        for number, segment in zip(group, members):
            positions = inside[(corpus.live.segments[inside] == number) & (row[inside] >= 0)]
            one = corpus.set_of(segment, name)
            if one is not None and len(positions):
                parts.append(one.take(row[positions]))
                order.append(positions)
        if parts:
            out[name] = _joined(parts).take(np.argsort(np.concatenate(order), kind="stable"))
    return out


def _joined(parts: Sequence[TokenSet]) -> TokenSet:
    def coded(held: Sequence[Coded]) -> Coded:
        return Coded(np.concatenate([one.codes for one in held]), np.concatenate([one.scales for one in held]))

    exact = [one.exact for one in parts if one.exact is not None]
    coarse = [one.coarse for one in parts if one.coarse is not None]
    return TokenSet(
        coded([one.coded for one in parts]),
        np.concatenate(exact) if exact else None,
        coded(coarse) if len(coarse) == len(parts) else None,
    )
