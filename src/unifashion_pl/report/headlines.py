"""What was learned, for the first screen: of each task a figure with its chance and interval, and pictures that a hash has drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.runfolder import Evaluation
from unifashion_pl.report.tables import Results

#: Task, by its kind of predictions -> its name, and figures of which the first that was measured stands there: metric, family, what it means.
WANTED: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "retrieval": (
        "Search by text",
        (
            ("t2i/R@1", "fashiongen_100", "of the texts find their product first among 100 of its category"),
            ("t2i/R@10", "fashiongen_full", "of the texts find their product among the first 10 of the whole gallery"),
            ("t2i/R@1", "fashiongen_full", "of the texts find their product first in the whole gallery"),
        ),
    ),
    "composed": (
        "A photo, and what should be different",
        (("mean/R@10", "fashioniq", "of the queries find their target among the first 10"),),
    ),
    "captions": (
        "Captions",
        (
            ("caption/colour_accuracy", "first-mention", "of the captions name the right colour first"),
            ("CIDEr", "coco", "CIDEr × 100 beside the dataset’s captions"),
        ),
    ),
    "edits": (
        "Try-on",
        (("SSIM", "tryon", "SSIM between painted persons and the truth, 1 at best"),),
    ),
}
#: Pictures of a task, and runs whose figures have room there.
CAPTIONED, PERSONS, MOST_RUNS = 4, 3, 4


@dataclass(frozen=True)
class Figure:
    """A number on the first screen.

    Attributes:
        run: whose it is; "" where there is one alone.
        meaning: what it counts, a phrase behind the number.
        chance: in percent; None = not known. instead: what is reached with the garment withheld; None = was not measured.
    """

    run: str
    record: ResultRecord
    meaning: str
    chance: float | None
    instead: ResultRecord | None


@dataclass(frozen=True)
class Headline:
    """A task: its figures, one a run, and lines with their evaluation, whose pictures stand beside them."""

    kind: str
    title: str
    figures: Sequence[Figure]
    view: Evaluation | None
    lines: Sequence[Any]


def headlines(tests: Sequence[tuple[str, Evaluation]]) -> list[Headline]:
    """The tasks that were tested, in the order of the paper.

    Args:
        tests: evaluations with the names of their runs.
    """
    made = []
    for kind, (title, wanted) in WANTED.items():
        found = [figure for name, one in tests if (figure := _figure(name, one, wanted)) is not None]
        alone = len({id(one) for _, one in tests if _figure("", one, wanted) is not None}) < 2
        figures = [Figure("" if alone else f.run, f.record, f.meaning, f.chance, f.instead) for f in found[:MOST_RUNS]]
        view = next((one for _, one in reversed(tests) if drawn(one, kind)), None)
        if figures or view is not None:
            made.append(Headline(kind, title, figures, view, [] if view is None else drawn(view, kind)))
    return made


def drawn(evaluation: Evaluation, kind: str) -> list[Any]:
    """Lines of a kind with pictures, drawn by a hash of their names: neither the best nor the worst."""
    lines: list[Any] = evaluation.shown(kind)
    if kind == "retrieval":
        lines = [line for line in lines if line.direction == "t2i"]
    if kind == "edits":
        lines = [line for line in lines if line.paired and "tryon" in line.made]
    most = {"captions": CAPTIONED, "edits": PERSONS}.get(kind, 1)
    return sorted(lines, key=lambda line: hashlib.sha256(f"first screen|{_name(line)}".encode()).hexdigest())[:most]


def _name(line: Any) -> str:
    return str(getattr(line, "key", None) or line.id)


def _figure(run: str, evaluation: Evaluation, wanted: Sequence[tuple[str, str, str]]) -> Figure | None:
    results = Results(evaluation.records)
    for metric, family, meaning in wanted:
        for record in evaluation.records:
            if record.metric == metric and record.value is not None and _plain(record, family):
                withheld = (
                    r for r in evaluation.records if r.metric == metric and r.under.family == family and r.under.withheld
                )
                return Figure(run, record, meaning, results.chance(record), next(withheld, None))
    return None


def _plain(record: ResultRecord, family: str) -> bool:
    """Whether a number is the paper's variant of a family, of whole queries and no chance level."""
    under = record.under
    kept = under.family == family and not (under.chance or under.further or under.robustness or under.withheld)
    return kept and (not under.composed or (record in Results([record]).headline and under.half == "itc"))
