"""When nothing in an index matches a text: a threshold of the best score, from judged queries with and without their right answers.

A query whose right answers are in the index should find something; the same query with them left out, and a text of another trade, should not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.gallery.asking import Asking, SearchOptions
from unifashion_pl.gallery.hits import Hit
from unifashion_pl.gallery.questions import FileQuery
from unifashion_pl.gallery.stored import Rate, Threshold

#: Judged queries that a threshold needs: half of them choose, the other half measure, and in turn.
FEWEST = 20
#: Texts that are searched together.
TOGETHER = 256
#: Share by which an index may grow or shrink before it is said that its threshold is of another one.
CHANGED = 0.5


@dataclass(frozen=True)
class Verdict:
    """What the threshold says of a search.

    Attributes:
        matches: the best score reaches it. best: that score. threshold: of the index.
        images: in the index now.
    """

    matches: bool
    best: float
    threshold: Threshold
    images: int

    def as_json(self) -> dict[str, Any]:
        return {"matches": self.matches, "best": self.best, **asdict(self.threshold), "stale": self.stale}

    @property
    def stale(self) -> bool:
        """Whether the index has changed much since."""
        return abs(self.images - self.threshold.images) > CHANGED * self.threshold.images

    @property
    def text(self) -> str:
        """In a sentence."""
        said = f"the best score is {self.best:.3f}, the threshold {self.threshold.text}"
        old = (
            f"; calibrated with {self.threshold.images:,} images, now there are {self.images:,}: calibrate anew"
            if self.stale
            else ""
        )
        return f"{'' if self.matches else 'nothing here seems to match: '}{said}{old}"


def verdict(gallery: Asking, hits: Sequence[Hit], asked: SearchOptions, text: str | None, image: Any) -> Verdict | None:
    """What the index's threshold says of a search by a text alone that is ranked as it was calibrated; None of others, and without one."""
    threshold = gallery.threshold
    plain = SearchOptions(k=asked.k, where=asked.where, group=asked.group, exclude=asked.exclude)
    if threshold is None or text is None or image is not None or asked != plain or not hits:
        return None
    return Verdict(hits[0].score >= threshold.score, hits[0].score, threshold, len(gallery))


def calibrate(
    gallery: Asking, queries: Sequence[FileQuery], foreign: Sequence[FileQuery] = (), reject: float = 0.05
) -> Threshold:
    """The threshold that rejects at most a share of the queries that can be answered.

    Rates are measured on queries that did not choose: each half of the queries is judged by the other half's threshold. The one that is kept is
    chosen by all.

    Args:
        queries: texts with their right answers; those of one text on several rows are together its right answers. foreign: texts of which the index has nothing.
        reject: share of answerable queries that may be rejected.

    Raises:
        ArgumentError: too few judged texts, right answers that are not in the index, or a share outside of 0..1.
    """
    if not 0 < reject < 1:
        raise ArgumentError(f"reject is {reject}, expected a share between 0 and 1, e.g. 0.05")
    judged = _one_a_text([query for query in queries if query.right and query.text is not None and query.image is None])
    if len(judged) < FEWEST:
        raise ArgumentError(
            f"{len(judged)} of {len(queries)} queries have a text alone and right answers (column relevant), expected at least {FEWEST}"
        )
    if absent := gallery.absent(id for query in judged for id in query.right):
        raise ArgumentError(f"{len(absent)} right answers are not in the index, e.g. {', '.join(absent[:3])}")
    right = _best(gallery, [str(query.text) for query in judged])
    without = np.array([_without(gallery, query) for query in judged])
    if any(query.text is None or query.image is not None for query in foreign):
        raise ArgumentError("foreign queries have a text alone, no image: a threshold is of searches by text")
    strange = _best(gallery, [*dict.fromkeys(str(query.text).strip() for query in foreign)]) if foreign else np.zeros(0)
    half = np.arange(len(judged)) % 2 == 0
    cuts = np.where(half, _cut(right[~half], reject), _cut(right[half], reject))
    return Threshold(
        score=float(_cut(right, reject)),
        images=len(gallery),
        rejected=_rate(right < cuts),
        accepted=_rate(without >= cuts),
        foreign=_rate(strange >= _cut(right, reject)) if len(strange) else None,
    )


def _one_a_text(queries: Sequence[FileQuery]) -> list[FileQuery]:
    """One query a text, with all that is right for it; else each row would leave the others' right answers in the index."""
    merged: dict[str, FileQuery] = {}
    for query in queries:
        text = str(query.text).strip()
        known = merged.setdefault(text, query)
        merged[text] = replace(known, right=tuple(dict.fromkeys((*known.right, *query.right))))
    return list(merged.values())


def _cut(scores: Any, reject: float) -> float:
    """The largest threshold that rejects at most the share of some scores."""
    return float(np.sort(scores)[int(np.floor(reject * len(scores)))])


def _rate(wrong: Any) -> Rate:
    from unifashion_pl.metrics.intervals import wilson_interval  # brings torch, which a search does without

    interval = wilson_interval(int(wrong.sum()), len(wrong))
    return Rate(float(wrong.mean()), len(wrong), interval.low, interval.high)


def _best(gallery: Asking, texts: Sequence[str]) -> Any:
    """(n,) the best score of each text."""
    parts = [texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER)]
    return np.array([hits[0].score for part in parts for hits in gallery.search_many(part, k=1)])


def _without(gallery: Asking, query: FileQuery) -> float:
    """The best score of a query without its right answers; of an index of nothing else, none."""
    hits = gallery.search(query.text, k=1, exclude=query.right)
    return hits[0].score if hits else -np.inf
