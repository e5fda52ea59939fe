"""The paper's tables beside a run: which cells can be compared at all, and what comes out.

``published.json`` holds the printed values of arXiv 2408.11305v2, uncorrected. Every printed average is recomputed here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from typing import Any

from unifashion_pl.metrics.candidates import SAMPLED
from unifashion_pl.metrics.fashioniq import FULL_QUERIES
from unifashion_pl.metrics.intervals import seed_summary
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.runfolder import Run

TOLERANCE = 0.011
MARGINS = {"1": 1.0, "2": 1.0, "4": 1.0}
SCORE_OF_ROW = {"UniFashion w/o cap": "image", "UniFashion w/o img": "caption", "UniFashion": "both"}
UNREPRODUCIBLE = {
    "1": "the candidate lists were not published",
    "2": "the published script computes no CIDEr, and its references were not published",
    "4": "the authors' published gallery captions were written with the queries' texts at hand; whether this row used them is not known",
}
#: With nothing to compare, these stand for a row.
CHIEF = ("i2t/R@1", "t2i/R@1", "mean", "BLEU-4", "CIDEr", "mean/R@10", "mean/R@50", "Avg")


@dataclass
class PublishedCell:
    """One published cell of this paper against our value."""

    table: str
    method: str
    metric: str
    published: float
    status: str
    ours: float | None = None
    interval: str = "–"
    record: ResultRecord | None = None
    run: Run | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus theirs."""
        return None if self.ours is None else self.ours - self.published

    @property
    def origin(self) -> list[tuple[str, str]]:
        """Config, commit (or version) and data of our number, as far as they are known."""
        if self.record is None:
            return []
        r = self.record
        code = ("commit", r.commit) if r.commit else ("version", r.code_version)
        facts = (("config", self.run and config_hash(self.run)), code, ("data", r.data_hash and r.data_hash[:12]))
        return [(name, value) for name, value in facts if value]


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


def reads_fashiongen(run: Run) -> bool:
    """Whether a run's data are FashionGen's: protocols of pairs are used on other catalogues, too, and do not name the data."""
    data = json.dumps([config.get("data") for config in run.configs.values()], default=str)
    return any(name in data for name in ("FashionGenDataModule", "BenchmarkDataModule"))


def is_comparable(number: str, run: Run, record: ResultRecord) -> bool:
    """Whether a number is of the published data, of all of them (for Fashion-IQ, the whole validation split), and of trained weights."""
    if run.is_toy or record.flaw:
        return False
    whole = FULL_QUERIES.get(record.metric.split("/")[0], sum(FULL_QUERIES.values()))
    return record.n == whole and not record.under.detail("gallery") if number == "4" else reads_fashiongen(run)


def compare(number: str, method: str, metric: str, value: float, runs: Sequence[Run]) -> PublishedCell:
    """Find our values of a published cell in the runs (one per training seed) and judge them."""
    records = [(run, r) for run in runs for e in run.evaluations for r in e.records if r.value is not None]
    found = [(run, r) for run, r in records if matches(number, method, metric, r)]
    real = one_recipe([(run, r) for run, r in found if is_comparable(number, run, r)])
    if not real:
        return PublishedCell(number, method, metric, value, f"not run ({_reason(number, found)})")
    scale = 100.0 if number == "2" else 1.0
    values = [r.value * scale for _, r in real if r.value is not None]
    mean = math.fsum(values) / len(values)
    half = seed_summary(values).half_new_run if len(values) >= 3 else math.inf
    status = judge(number, method, value, mean, half)
    run, record = real[0]
    spread = f"{mean - half:.2f}–{mean + half:.2f}" if math.isfinite(half) else f"{len(values)} seed{'s'[: len(values) > 1]}"
    return PublishedCell(number, method, metric, value, status, mean, spread, record, run)


def _reason(number: str, found: Sequence[tuple[Run, ResultRecord]]) -> str:
    """Why no number fills a cell."""
    if photographed := [r for run, r in found if not run.is_toy and (number == "4" or reads_fashiongen(run))]:
        return next((r.flaw for r in photographed if r.weights or (r.flaw and number != "4")), "not the full split")
    if not found:
        return "no evaluation"
    return "toy data" if all(run.is_toy for run, _ in found) else "not FashionGen"


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


def published(runs: Sequence[Run]) -> dict[str, Any]:
    """All printed tables; this paper's rows with our cells by (table, method); averages that do not follow from their row."""
    data = load_published()
    cells = [
        compare(block["table"], row["method"], metric, value, runs)
        for block in data["tables"]
        if block["table"] in MARGINS
        for row in block["rows"]
        if row.get("this_paper")
        for metric, value in row["values"].items()
        if value is not None
    ]
    rows = [(*key, list(group)) for key, group in groupby(cells, key=lambda c: (c.table, c.method))]
    compared = any(c.ours is not None for c in cells)
    return {**data, "rows": rows, "compared": compared, "broken": broken_averages(data), "chief": CHIEF}


def config_hash(run: Run) -> str | None:
    """First 12 digits of the SHA-256 of a run's config files; None where it has none."""
    text = "\0".join(f"{label}\n{text}" for label, text in sorted(run.config_texts.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else None
