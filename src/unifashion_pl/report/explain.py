"""Which queries are shown, and why each has the rank it has: best, worst and drawn ones, with the scores behind the rank."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from statistics import median

from unifashion_pl.metrics.lines import Line, place
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.tables import ALL_KEPT, VARIANTS, is_plain

HEADLINE = "/".join(ALL_KEPT)
TEXT_HALVES, IMAGE_HALVES = ("text-only", "text-blank"), ("image-only", "image-similarity")


@dataclass(frozen=True)
class Chosen:
    """Queries of one kind that are shown.

    Attributes:
        title: ``best``, ``worst`` or ``random``.
        lines: queries that no group before has shown.
        again: drawn queries that stand in a group above.
    """

    title: str
    lines: list[Line]
    again: list[Line]


def choose(lines: Sequence[Line], best: int = 3, worst: int = 3, drawn: int = 4) -> list[Chosen]:
    """Best and worst by the target's rank (the margin decides between equal ranks), and some by a hash of the id.

    The draw is from all lines, so that it is a fair sample; what it shares with the other groups is shown once and named twice.
    """
    ordered = sorted(lines, key=lambda line: (place(line), -_margin_or(line, -1e9), str(line["key"])))
    top = ordered[:best]
    bottom = ordered[max(len(top), len(ordered) - worst) :][::-1]
    lot = sorted(lines, key=lambda line: hashlib.sha256(f"report|{line['key']}".encode()).hexdigest())[:drawn]
    seen = {line["key"] for line in (*top, *bottom)}
    random = Chosen("random", [x for x in lot if x["key"] not in seen], [x for x in lot if x["key"] in seen])
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


def scores_of(line: Line, targets: Collection[str]) -> Scores:
    """Scores of the target (its best view) and of the strongest other candidate."""
    own = [score for key, score in line["top"] if key in targets]
    others = [score for key, score in line["top"] if key not in targets]
    bound = min((score for _, score in line["top"]), default=None)
    return Scores(max(own, default=None), max(others, default=None), bound)


def targets_of(line: Line) -> set[str]:
    """Right answers of a line: the views of a product, or the one target of a composed query."""
    return set(line["targets"]) if "targets" in line else {line["target"]}


def _margin_or(line: Line, absent: float) -> float:
    margin = scores_of(line, targets_of(line)).margin
    return absent if margin is None else margin


def explain(line: Line) -> list[str]:
    """Sentences (HTML) that say where a line's rank comes from; what the prediction file does not hold is left out."""
    found = scores_of(line, targets_of(line))
    said = []
    if found.target is not None and found.rival is not None and found.margin is not None:
        css = "good" if found.margin > 0 else "bad"
        said.append(
            f"target scores {found.target:.3f}, best competitor {found.rival:.3f}, "
            f'margin <b class="{css}">{_signed(found.margin)}</b>'
        )
    elif found.target is None and found.bound is not None and found.rival is not None:
        said.append(
            f"target scores at most {found.bound:.3f} (end of the list), best competitor {found.rival:.3f}, "
            f'margin <b class="bad">≤ {_signed(found.bound - found.rival)}</b>'
        )
    if line.get("ties"):
        said.append(f"{line['ties']:,} others score the same and count before it")
    return said + _reference(line) + _other_scores(line) + _halves(line)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _reference(line: Line) -> list[str]:
    """Where the reference image itself came, which the query must leave behind."""
    ranks, at = line.get("ranks", {}), None
    for i, (key, _) in enumerate(line["top"], 1):
        if key == line.get("reference"):
            at = i
    removed = ranks.get(HEADLINE.replace("ref-kept", "ref-removed"))
    without = sum(removed) if removed else None
    if at is not None and at < place(line):
        tail = f"; without it the target is at {without:,}" if without is not None else ""
        return [f"the reference itself is at rank {at}, before the target{tail}"]
    return [f"the reference itself is at rank {at}, behind the target"] if at is not None else []


def _other_scores(line: Line) -> list[str]:
    """Ranks by gallery captions and by both scores."""
    head = HEADLINE.rpartition("/")[0]
    places = {s: line.get("ranks", {}).get(f"{head}/{s}") for s in ("caption", "both")}
    known = [f"{'captions alone' if s == 'caption' else 'image and caption'} {sum(p):,}" for s, p in places.items() if p]
    return [f"rank by {', by '.join(known)}"] if known else []


def _halves(line: Line) -> list[str]:
    """Ranks of the target by one half of the query, where a prediction line has ``halves``: name -> [rank, ties]."""
    known = [f"{escape(VARIANTS.get(name, name))} {sum(pair):,}" for name, pair in line.get("halves", {}).items()]
    return [f"rank by half of the query: {', '.join(known)}"] if known else []


def gallery_sizes(records: Iterable[ResultRecord]) -> dict[str, int]:
    """Category -> images of the whole gallery, from the chance levels: one right answer among G gives R@K = K / G by chance."""
    sizes = {}
    for r in records:
        under = r.under
        if not under.chance or under.further or under.variant != ALL_KEPT or not r.value or not 1e-3 < r.value < 100:
            continue
        category, _, cut = r.metric.partition("/R@")
        if category != "mean" and cut:
            sizes[category] = round(100 * int(cut) / r.value)
    return sizes


def halves_reached(records: Sequence[ResultRecord]) -> str:
    """Per category what the whole query and its stronger text and image half reach over all queries, at the smallest K."""
    cells: dict[str, dict[str, float]] = {}
    plain = [r for r in records if is_plain(r)]
    cuts = [int(match[1]) for r in plain if (match := re.search(r"/R@(\d+)$", r.metric))]
    for r in plain:
        if r.value is not None and r.under.variant == ALL_KEPT:
            category, _, cut = r.metric.partition("/R@")
            if category != "mean" and cut and int(cut) == min(cuts):
                cells.setdefault(category, {})[r.under.half] = r.value
    parts = []
    for category, values in cells.items():
        text = max((values[name] for name in TEXT_HALVES if name in values), default=None)
        image = max((values[name] for name in IMAGE_HALVES if name in values), default=None)
        if "itc" in values and text is not None and image is not None:
            parts.append(f"{escape(category)} {values['itc']:.1f} / {text:.1f} / {image:.1f}")
    if not parts:
        return ""
    return f"R@{min(cuts)} of whole query / its text alone / its image alone, over all queries: {'; '.join(parts)}."


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
        f"Over all {len(ranks):,} queries the median rank is {median(ranks):,.0f}{chance}; {first:.0f}&nbsp;% stand at rank 1, "
        f"{ten:.0f}&nbsp;% among the first 10, the last one at {max(ranks):,}."
    )
