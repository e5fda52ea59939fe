"""Which queries are shown, and why each has the rank it has: best, worst and drawn ones, with the scores behind the rank."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

from unifashion_pl.metrics.lines import ComposedLine, ResultList, RetrievalLine, TextToImage, place
from unifashion_pl.metrics.protocol import HEADLINE
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.runfolder import Evaluation
from unifashion_pl.report.tables import VARIANTS, Results, cut_of, is_plain

Query = TextToImage | ComposedLine
#: The whole query, and in how many ways its text and its image are asked alone.
SIDES = (("itc",), ("text-only", "text-blank"), ("image-only", "image-similarity"))


@dataclass(frozen=True)
class Chosen:
    """Queries of one kind that are shown.

    Attributes:
        title: ``best``, ``worst`` or ``random``.
        lines: queries that no group before has shown.
        again: drawn queries that stand in a group above.
    """

    title: str
    lines: list[Query]
    again: list[Query]


def choose(lines: Sequence[Query], best: int = 3, worst: int = 3, drawn: int = 4) -> list[Chosen]:
    """Best and worst by the target's rank (the margin decides between equal ranks), and some by a hash of the id.

    The draw is from all lines, so that it is a fair sample; what it shares with the other groups is shown once and named twice.
    """
    margins = [(line, scores_of(line).margin) for line in lines]
    ordered = [line for line, _ in sorted(margins, key=lambda m: (place(m[0]), 1e9 if m[1] is None else -m[1], m[0].key))]
    top = ordered[:best]
    bottom = ordered[max(len(top), len(ordered) - worst) :][::-1]
    lot = sorted(lines, key=lambda line: hashlib.sha256(f"report|{line.key}".encode()).hexdigest())[:drawn]
    seen = {line.key for line in (*top, *bottom)}
    random = Chosen("random", [x for x in lot if x.key not in seen], [x for x in lot if x.key in seen])
    return [group for group in (Chosen("best", top, []), Chosen("worst", bottom, []), random) if group.lines or group.again]


@dataclass(frozen=True)
class Scores:
    """What a result list tells about the target.

    Attributes:
        target: its score; None where the list ends before it.
        rival: best score of another candidate; None where there is none.
        bound: score of the list's last entry, which a target beyond the list does not exceed.
    """

    target: float | None
    rival: float | None
    bound: float | None

    @property
    def margin(self) -> float | None:
        """Target minus best competitor; an upper bound where the target is beyond the list."""
        reached = self.target if self.target is not None else self.bound
        return None if reached is None or self.rival is None else reached - self.rival


def scores_of(line: ResultList | ComposedLine) -> Scores:
    """Scores of the target (its best view) and of the strongest other candidate."""
    own = [score for key, score in line.top if key in line.targets]
    others = [score for key, score in line.top if key not in line.targets]
    bound = min((score for _, score in line.top), default=None)
    return Scores(max(own, default=None), max(others, default=None), bound)


def explain(line: Query) -> list[str]:
    """Sentences that say, beside the :class:`Scores`, where a rank comes from; what the prediction file does not hold is left out."""
    said = [f"{line.ties:,} others score the same and count before it"] if line.ties else []
    if not isinstance(line, ComposedLine):
        return said
    gallery, kept, _ = HEADLINE
    at = next((i for i, (key, _) in enumerate(line.top, 1) if key == line.reference), None)
    if at is not None and at < place(line):
        removed = line.ranks.get(f"{gallery}/ref-removed/image")
        tail = f"; without it the target is at {sum(removed):,}" if removed else ""
        said.append(f"the reference itself is at rank {at}, before the target{tail}")
    elif at is not None:
        said.append(f"the reference itself is at rank {at}, behind the target")
    scores = {"captions alone": f"{gallery}/{kept}/caption", "image and caption": f"{gallery}/{kept}/both"}
    known = [f"{name} {sum(line.ranks[variant]):,}" for name, variant in scores.items() if variant in line.ranks]
    said += [f"rank by {', by '.join(known)}"] if known else []
    halves = [f"{VARIANTS.get(name, name)} {sum(pair):,}" for name, pair in line.halves.items()]
    return said + ([f"rank by half of the query: {', '.join(halves)}"] if halves else [])


def gallery_sizes(records: Iterable[ResultRecord]) -> dict[str, int]:
    """Category -> images of the whole gallery, from the chance levels: one right answer among G gives R@K = K / G by chance."""
    sizes = {}
    for r in records:
        if r.under.chance and r.under.variant == HEADLINE and not r.under.further:
            category, cut = r.metric.partition("/")[0], cut_of(r.metric)
            if category != "mean" and cut and r.value and 1e-3 < r.value < 100:
                sizes[category] = round(100 * cut / r.value)
    return sizes


def halves_reached(records: Sequence[ResultRecord]) -> str:
    """Per category what the whole query and its stronger text and image half reach over all queries, at the smallest K."""
    smallest = min((cut for r in records if is_plain(r) and (cut := cut_of(r.metric)) is not None), default=0)
    cells: dict[str, dict[str, float | None]] = {}
    for r in Results(records).headline:
        category, _, metric = r.metric.partition("/")
        if category != "mean" and metric == f"R@{smallest}":
            cells.setdefault(category, {})[r.under.half] = r.value
    parts = []
    for category, of in cells.items():
        sides = [[value for name in side if (value := of.get(name)) is not None] for side in SIDES]
        if all(sides):
            parts.append(f"{category} " + " / ".join(f"{max(side):.1f}" for side in sides))
    said = f"R@{smallest} of whole query / its text alone / its image alone, over all queries: {'; '.join(parts)}."
    return said if parts else ""


@cache
def chance_median(candidates: int, right: int) -> int:
    """The rank (from 1) that the best of ``right`` right answers reaches in half of all random orders.

    >>> chance_median(200, 1), chance_median(1800, 3)
    (100, 372)
    """
    worse = 1.0  # chance that all right answers come later
    for rank in range(candidates):
        worse *= max(0, candidates - rank - right) / (candidates - rank)
        if worse <= 0.5 + 1e-12:
            return rank + 1
    return candidates


def rank_summary(ranks: Sequence[int], sizes: Sequence[tuple[int, int]]) -> str:
    """Where the targets of all queries stand, and where chance would put them.

    Args:
        ranks: per query, from 1, ties counted against it.
        sizes: (candidates, right ones) of the queries; empty = not known.
    """
    if not ranks:
        return ""
    first, ten = (100 * sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 10))
    chance = f" (chance {median(chance_median(*size) for size in sizes):,.0f})" if sizes else ""
    return (
        f"Over all {len(ranks):,} queries the median rank is {median(ranks):,.0f}{chance}; {first:.0f}\u00a0% stand at rank 1, "
        f"{ten:.0f}\u00a0% among the first 10, the last one at {max(ranks):,}."
    )


def retrieval_summary(evaluation: Evaluation) -> str:
    """Where the right products of all texts stand in the whole gallery; any view of one counts."""
    full = [line for line in evaluation.lines(RetrievalLine) if line.protocol == "fashiongen_full"]
    views = Counter(line.product for line in full if line.direction == "i2t")
    texts = [line for line in full if line.direction == "t2i" and views[line.product]]
    return rank_summary([place(line) for line in texts], [(line.candidates, views[line.product]) for line in texts])


def composed_summary(evaluation: Evaluation) -> str:
    """Where the targets of all composed queries stand, and what halves of them reach."""
    lines, sizes = evaluation.lines(ComposedLine), gallery_sizes(evaluation.records)
    known = [(sizes[line.category], 1) for line in lines if line.category in sizes]
    return f"{rank_summary([place(line) for line in lines], known)} {halves_reached(evaluation.records)}"


#: What templates ask of lines, evaluations and records.
FILTERS = (choose, explain, scores_of, gallery_sizes, retrieval_summary, composed_summary)
