"""The paper's tables beside a run: which cells can be compared at all, and what comes out.

``published.json`` holds the printed values of arXiv 2408.11305v2, uncorrected. Every printed average is recomputed here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from unifashion_pl.metrics.candidates import SAMPLED
from unifashion_pl.metrics.intervals import seed_summary
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.html import Page, details, figure, table
from unifashion_pl.report.runfolder import Run

TOLERANCE = 0.011
MARGINS = {"1": 1.0, "2": 1.0, "4": 1.0}
FULL_FASHIONIQ = {"dress": 2017, "shirt": 2038, "toptee": 1961}
SCORE_OF_ROW = {"UniFashion w/o cap": "image", "UniFashion w/o img": "caption", "UniFashion": "both"}
UNREPRODUCIBLE = {
    "1": "the candidate lists were not published",
    "2": "the evaluation program was not published",
    "4": "the gallery captions behind this row contain the queries' texts",
}


@dataclass
class Comparison:
    """One published cell of this paper against our value."""

    table: str
    method: str
    metric: str
    published: float
    ours: float | None
    interval: str
    n: int | None
    protocol: str
    status: str
    record: ResultRecord | None = None
    run: Run | None = None


def load_published() -> dict[str, Any]:
    """The shipped tables."""
    data: dict[str, Any] = json.loads((files("unifashion_pl.report") / "published.json").read_text(encoding="utf-8"))
    return data


def broken_averages(published: dict[str, Any]) -> list[tuple[str, str, str, float, float]]:
    """(table, method, metric, printed, recomputed) of every printed average that does not follow from its row."""
    wrong = []
    for block in published["tables"]:
        for row in block["rows"]:
            values = row["values"]
            for name, parts in block["averages"].items():
                if any(values.get(p) is None for p in (name, *parts)):
                    continue
                mean = math.fsum(values[p] for p in parts) / len(parts)
                if abs(mean - values[name]) > TOLERANCE:
                    wrong.append((block["table"], row["method"], name, values[name], mean))
    return wrong


def matches(number: str, method: str, metric: str, record: ResultRecord) -> bool:
    """Whether a record belongs to the same class of protocol as a published cell; chance levels and parts of a split do not."""
    under = record.under
    if record.metric != metric or under.chance or under.further or under.robustness:
        return False
    if number == "1":
        return under.family in SAMPLED
    if number == "2":
        return under.family == "coco"
    whole = under.variant == ("original", "ref-kept", SCORE_OF_ROW.get(method)) and not under.part
    return number == "4" and under.family == "fashioniq" and whole and under.half == "itc"


def is_full(number: str, record: ResultRecord) -> bool:
    """Whether a Fashion-IQ record covers the whole validation split; other tables cannot be reproduced anyway."""
    category = record.metric.split("/")[0]
    if record.under.detail("gallery"):
        return False
    return number == "4" and record.n == FULL_FASHIONIQ.get(category, sum(FULL_FASHIONIQ.values()))


def reads_fashiongen(run: Run) -> bool:
    """Whether a run's data are FashionGen's: protocols of pairs are used on other catalogues, too, and do not name the data."""
    data = json.dumps([config.get("data") for config in run.configs.values()], default=str)
    return any(name in data for name in ("FashionGenDataModule", "BenchmarkDataModule"))


def is_comparable(number: str, run: Run, record: ResultRecord) -> bool:
    """Whether a number is of the published data, of all of them, and of trained weights."""
    if run.is_toy or record.flaw:
        return False
    return is_full(number, record) if number == "4" else reads_fashiongen(run)


def compare(number: str, method: str, metric: str, value: float, runs: Sequence[Run]) -> Comparison:
    """Find our values of a published cell in the runs (one per training seed) and judge them."""
    found = [
        (run, r)
        for run in runs
        for e in run.evaluations
        for r in e.records
        if r.value is not None and matches(number, method, metric, r)
    ]
    real = one_recipe([(run, r) for run, r in found if is_comparable(number, run, r)])
    if not real:
        reason = "toy data" if found else "no evaluation"
        if photographed := [r for run, r in found if not run.is_toy and (number == "4" or reads_fashiongen(run))]:
            reason = next((r.flaw for r in photographed if r.weights or (r.flaw and number != "4")), "not the full split")
        elif found and not all(run.is_toy for run, _ in found):
            reason = "not FashionGen"
        return Comparison(number, method, metric, value, None, "", None, "", f"not run ({reason})")
    scale = 100.0 if number == "2" else 1.0
    values = [r.value * scale for _, r in real if r.value is not None]
    mean, half = math.fsum(values) / len(values), math.inf
    if len(values) >= 3:
        half = seed_summary(values).half_new_run
    status = judge(number, method, value, mean, half)
    run, record = real[0]
    spread = f"{mean - half:.2f}–{mean + half:.2f}" if math.isfinite(half) else f"{len(values)} seed{'s'[: len(values) > 1]}"
    return Comparison(number, method, metric, value, mean, spread, record.n, record.protocol, status, record, run)


def one_recipe(found: list[tuple[Run, ResultRecord]]) -> list[tuple[Run, ResultRecord]]:
    """Runs that differ in nothing but the seed: those of the recipe with the most seeds (the later one if equal), one run per seed."""
    recipes: dict[str, dict[Any, tuple[Run, ResultRecord]]] = {}
    for number, (run, record) in enumerate(found):
        last = list(run.configs.values())[-1] if run.configs else {}
        model = {k: v for k, v in (last.get("model") or {}).items() if k != "init_from"}
        recipe = json.dumps([record.protocol, model, last.get("data")], sort_keys=True, default=str)
        recipes.setdefault(recipe, {})[last.get("seed_everything", number)] = (run, record)
    groups = [list(group.values()) for group in recipes.values()]
    return max(reversed(groups), key=len, default=[])


def judge(number: str, method: str, published: float, mean: float, half: float) -> str:
    """Status of a cell: needs three training seeds, a tight interval, and a protocol that can be repeated."""
    if number in ("1", "2") or (number == "4" and SCORE_OF_ROW[method] != "image"):
        return f"protocol not reproducible: {UNREPRODUCIBLE[number]}"
    if not math.isfinite(half) or half > MARGINS[number]:
        return "inconclusive"
    if published < mean - half:
        return "exceeds"
    return "below" if published > mean + half else "reproduced"


def add_published(page: Page, runs: Sequence[Run]) -> None:
    """This paper's rows with our column and a status, then all printed rows, folded."""
    published = load_published()
    source = published["source"]
    cells = [
        compare(block["table"], row["method"], metric, value, runs)
        for block in published["tables"]
        if block["table"] in ("1", "2", "4")
        for row in block["rows"]
        if row.get("this_paper")
        for metric, value in row["values"].items()
        if value is not None
    ]
    ran = [c for c in cells if c.ours is not None]
    text = (
        f"Values printed in <i>{escape(source['title'])}</i> (<a href='{source['url']}'>{escape(source['id'])}</a>) beside this run. "
        "A cell is filled only by the full benchmark under a comparable protocol; an empty cell never shows somebody else's number."
    )
    page.add(page.caption("Table", text), _summary(cells) if not ran else _cells(cells))
    for block in published["tables"]:
        page.add(details(f"Published Table {block['table']}: {block['title']}", _printed(block)))
    wrong = broken_averages(published)
    rows = [[escape(m), f"Table {t}", escape(k), figure(p), figure(r)] for t, m, k, p, r in wrong]
    sums = table(["method", "where", "metric", "printed", "recomputed"], rows)
    page.add(details(f"{len(wrong)} printed averages do not follow from their own row", sums))


def _cells(cells: list[Comparison]) -> str:
    head = ["metric", "published", "ours", "difference", "interval", "n", "status", "protocol", "origin"]
    rows: list[list[str]] = []
    last = None
    for c in cells:
        if (c.table, c.method) != last:
            rows.append([f"Table {c.table}, {escape(c.method)}"])
            last = (c.table, c.method)
        gap = None if c.ours is None else c.ours - c.published
        n = f"{c.n:,}" if c.n else "–"
        signed = "–" if gap is None else f"{gap:+.2f}"
        values = [figure(c.published), figure(c.ours), signed, c.interval or "–", n, escape(c.status)]
        protocol = f"<code>{escape(c.protocol)}</code>" if c.protocol else "–"
        rows.append([escape(c.metric), *values, protocol, origin(c.record, c.run)])
    return table(head, rows, "numbers")


def origin(record: ResultRecord | None, run: Run | None) -> str:
    """Config, commit (or version), data and wall time of a number, as far as they are known; HTML."""
    if record is None:
        return "–"
    facts = {
        "config": config_hash(run) if run is not None else None,
        "commit": record.commit,
        "version": None if record.commit else record.code_version,
        "data": record.data_hash and record.data_hash[:12],
    }
    known = [f"{name} <code>{escape(value)}</code>" for name, value in facts.items() if value]
    if record.wall_seconds is not None:
        known.append(f"evaluated in {duration(record.wall_seconds)}")
    return ", ".join(known) or "–"


def config_hash(run: Run) -> str | None:
    """First 12 digits of the SHA-256 of a run's config files; None where it has none."""
    if not run.config_texts:
        return None
    text = "\0".join(f"{label}\n{run.config_texts[label]}" for label in sorted(run.config_texts))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def duration(seconds: float) -> str:
    """For people.

    >>> duration(61.2), duration(7384), duration(3.14)
    ('1 min 1 s', '2 h 3 min', '3.1 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _summary(cells: list[Comparison]) -> str:
    """With nothing to compare: one line per published row instead of a page of empty cells."""
    grouped: dict[tuple[str, str], list[Comparison]] = {}
    for c in cells:
        grouped.setdefault((c.table, c.method), []).append(c)
    rows = []
    for (number, method), group in grouped.items():
        keep = [
            c for c in group if c.metric in ("i2t/R@1", "t2i/R@1", "mean", "BLEU-4", "CIDEr", "mean/R@10", "mean/R@50", "Avg")
        ]
        values = " · ".join(f"{escape(c.metric)} <b>{figure(c.published)}</b>" for c in keep)
        rows.append([f"Table {number}, {escape(method)}", values, "–", escape(group[0].status)])
    return table(["published row", "published", "ours", "status"], rows, "prose")


def _printed(block: dict[str, Any]) -> str:
    columns = block["columns"]
    extra = (
        ["gallery"]
        if any("gallery" in r for r in block["rows"])
        else ["task"]
        if any("task" in r for r in block["rows"])
        else []
    )
    rows = []
    for row in block["rows"]:
        name = escape(row["method"]) + (f" <span class='dim'>{escape(row['note'])}</span>" if row.get("note") else "")
        name = f"<b>{name}</b>" if row.get("this_paper") else name
        rows.append([name, *(escape(str(row.get(k, "–"))) for k in extra), *(figure(row["values"][c]) for c in columns)])
    notes = "".join(f"<p class='note'>{escape(n)}</p>" for n in block["notes"])
    return f"<p class='note'>Unit: {escape(block['unit'])}.</p>" + table(["method", *extra, *columns], rows, "printed") + notes
