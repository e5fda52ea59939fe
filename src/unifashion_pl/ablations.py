"""Tables 4 and 5 of the paper at tiny size: train what the rows need, test it, and print our rows beside the paper's.

Below the folder of a table, ``runs/RECIPE/`` holds the run folders ``phase1`` and ``phase2`` of ``configs/ablations/RECIPE-*.yaml``,
``gallery-captions.jsonl`` and ``ablation.json``, the stages that are done (:mod:`unifashion_pl.trainings`). Both tables share the recipes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from unifashion_pl import __version__
from unifashion_pl.arguments import choice
from unifashion_pl.files import check_writable, write_text
from unifashion_pl.metrics.lines import read_lines
from unifashion_pl.metrics.records import Interval, ResultRecord, read_records
from unifashion_pl.report.page import render
from unifashion_pl.report.published import SCORE_OF_ROW, load_published, matches
from unifashion_pl.trainings import Settings, run_recipe, stages_of, working_in, write_captions

__all__ = ["Cell", "Row", "Settings", "Table", "cell_of", "collect", "make_table", "markdown", "ordering"]
__all__ += ["run_recipe", "stages_of", "working_in", "write_captions"]

METHOD_OF_SCORE = {score: method for method, score in SCORE_OF_ROW.items()}
#: Column of Table 5 -> the table and metric that it repeats. FIG has no source: FID needs Inception weights.
SOURCES = {"CMR": ("1", "mean"), "CIR": ("4", "Avg"), "FIC": ("2", "BLEU-4")}


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        method: as the paper prints it.
        recipe: what is trained, a stem of ``configs/ablations``.
        score: by which composed retrieval ranks: ``image``, ``caption`` or ``both``.
    """

    method: str
    recipe: str
    score: str


@dataclass(frozen=True)
class Table:
    """A table of the paper: its number, the metric that orders its rows, and the rows."""

    number: str
    key: str
    rows: tuple[Row, ...]


TABLES = {
    "table4": Table("4", "Avg", tuple(Row(method, "full", score) for method, score in SCORE_OF_ROW.items())),
    "table5": Table(
        "5",
        "CIR",
        (
            Row("Base", "base", "image"),
            Row("Base+LLM", "llm", "image"),
            Row("Base+LLM w/ cap", "llm", "both"),
            Row("Base+LLM+diff.", "full", "both"),
        ),
    ),
}


@dataclass(frozen=True)
class Cell:
    """Our value of one cell beside the paper's; None = not measured, or a dash."""

    metric: str
    ours: float | None
    interval: Interval | None
    n: int | None
    protocol: str | None
    paper: float | None


def make_table(name: str, out: str | Path, settings: Settings | None = None) -> str:
    """Do what is not done yet, write ``out/NAME.md`` and ``out/NAME.json``, and return the table as Markdown.

    Args:
        name: ``table4`` or ``table5``.
        out: its folder; recipes that it already holds are not trained again, one that was cut off starts its stage anew.

    Raises:
        ValueError: unknown table, or a folder whose recipes were made with other settings.
        WriteError: ``out`` cannot be written.
    """
    table = TABLES[choice(name, "table", TABLES)]
    out, settings = check_writable(out, folder=True), settings or Settings()
    out.mkdir(parents=True, exist_ok=True)
    with working_in(out):
        for recipe in dict.fromkeys(row.recipe for row in table.rows):
            run_recipe(recipe, settings, [row.method for row in table.rows if row.recipe == recipe])
        result = collect(table, settings)
        text = markdown(result)
        write_text(f"{name}.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        write_text(f"{name}.md", text)
    return text


def collect(table: Table, settings: Settings) -> dict[str, Any]:
    """The table as plain values, from the result records in the current folder."""
    published = load_published()
    block = next(b for b in published["tables"] if b["table"] == table.number)
    printed = {row["method"]: row["values"] for row in block["rows"] if row.get("this_paper")}
    rows, floors = [], []
    for row in table.rows:
        results = Path("runs") / row.recipe / "phase2" / "test" / "results.json"
        records = read_records(results)
        cells = [cell_of(table.number, row.score, metric, records, paper) for metric, paper in printed[row.method].items()]
        rows.append({**asdict(row), "results": str(results), "cells": [asdict(cell) for cell in cells]})
        if row.score != "image":
            values = {r.metric: r.value for r in records if is_floor(r)}
            floors.append({"recipe": row.recipe, "bm25": values, **_captions_of(row.recipe)})
    chief = {row["method"]: next(c for c in row["cells"] if c["metric"] == table.key) for row in rows}
    ours, paper, spans = ({m: cell[side] for m, cell in chief.items()} for side in ("ours", "paper", "interval"))
    return {
        "table": table.number,
        "title": block["title"],
        "source": published["source"],
        "settings": {**asdict(settings), "text": settings.text(), "version": __version__},
        "rows": rows,
        "captions": list({floor["recipe"]: floor for floor in floors}.values()),
        "ordering": {"metric": table.key, **ordering(table.key, ours, paper, spans)},
        "notes": block["notes"],
    }


def is_floor(record: ResultRecord) -> bool:
    """Whether it is what words alone reach in the whole of Fashion-IQ's galleries."""
    under = record.under
    return under.variant == ("original", "ref-kept", "caption") and under.half == "bm25" and not under.part


def _captions_of(recipe: str) -> dict[str, Any]:
    lines = read_lines(Path("runs") / recipe / "gallery-captions.jsonl")
    known = ("captioner", "weights_hash", "template", "decoding", "inputs")
    facts = {key: lines[0][key] for key in known if key in lines[0]} if lines else {}
    distinct = len({str(line.get("caption")) for line in lines})
    return {"n": len(lines), "distinct": distinct, "empty": sum(bool(line.get("empty")) for line in lines), **facts}


def cell_of(number: str, score: str, metric: str, records: Sequence[ResultRecord], paper: float | None) -> Cell:
    """Our record of a cell under the protocol that :func:`unifashion_pl.report.published.matches` accepts, in the paper's unit."""
    number, name = SOURCES.get(metric, (number, metric))
    found = next((r for r in records if r.value is not None and matches(number, METHOD_OF_SCORE[score], name, r)), None)
    if found is None or found.value is None:
        return Cell(metric, None, None, None, None, paper)
    scale = 100.0 if number == "2" else 1.0
    interval = found.interval.scaled(scale) if found.interval is not None else None
    return Cell(metric, found.value * scale, interval, found.n, found.protocol, paper)


def ordering(
    metric: str,
    ours: dict[str, float | None],
    paper: dict[str, float | None],
    intervals: dict[str, dict[str, Any] | None] | None = None,
) -> dict[str, Any]:
    """Whether our rows stand in the paper's order, pair by pair (a tie is not an order).

    Returns:
        ``matches`` (None where a row has no value) and ``sentence``.
    """
    if absent := [method for method in paper if ours.get(method) is None or paper[method] is None]:
        return {"matches": None, "sentence": f"The order by {metric} cannot be judged: no value for {', '.join(absent)}."}
    own = {method: value for method, value in ours.items() if value is not None}
    order, printed = _ranking(own), _ranking({method: value for method in own if (value := paper.get(method)) is not None})
    same = f"our rows stand in the paper's order, {order}"
    other = f"our order, {order}, is not the paper's, {printed}; at tiny size it need not be"
    text = f"By {metric} {same if order == printed else other}"
    spans = [(intervals or {}).get(method) for method in sorted(own, key=lambda m: -own[m])]
    if all(spans):
        close = sum(low is not None and up is not None and up["low"] <= low["high"] for up, low in pairwise(spans))
        text += f" (of {len(spans) - 1} neighbouring pairs of ours, {close} have overlapping intervals)"
    return {"matches": order == printed, "sentence": text + "."}


def _ranking(values: dict[str, float]) -> str:
    names = sorted(values, key=lambda method: -values[method])
    text = names[0]
    for before, after in pairwise(names):
        text += f" {'=' if values[before] == values[after] else '>'} {after}"
    return text


def markdown(result: dict[str, Any]) -> str:
    """The table of :func:`collect` for people."""
    return render("ablation.md", **result)
