"""Tables 4 and 5 of the paper at tiny size: train what the rows need, test it, and print our rows beside the paper's.

Below the folder of a table, ``runs/RECIPE/`` holds the run folders ``phase1`` and ``phase2`` of ``configs/ablations/RECIPE-*.yaml``,
``gallery-captions.jsonl`` and ``ablation.json``, the stages that are done. Both tables share the recipes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, TypedDict

from unifashion_pl import __version__
from unifashion_pl.cli.training import train
from unifashion_pl.files import check_writable, write_text
from unifashion_pl.metrics.lines import read_lines
from unifashion_pl.metrics.records import Interval, ResultRecord, read_records
from unifashion_pl.reading import read_json, read_yaml
from unifashion_pl.report.page import render
from unifashion_pl.report.published import SCORE_OF_ROW, load_published, matches

STATE = "ablation.json"
METHOD_OF_SCORE = {score: method for method, score in SCORE_OF_ROW.items()}
#: Column of Table 5 -> the table and metric that it repeats. FIG has no source: FID needs Inception weights.
SOURCES = {"CMR": ("1", "mean"), "CIR": ("4", "Avg"), "FIC": ("2", "BLEU-4")}
#: The tiny wardrobe has fewer triplets than one batch of the configs.
BATCHES = {"tiny": ["--data.batch_size", "8", "--data.triplet_batch_size", "8"]}


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
CAPTIONED = {row.recipe for table in TABLES.values() for row in table.rows if row.score != "image"}


@dataclass(frozen=True)
class Settings:
    """How the recipes of a folder are trained; None = as their configs say.

    Attributes:
        size: of the wardrobe.
        phase1_epochs, phase2_steps: length of the phases.
        seed: of training; the wardrobe stays the same.
    """

    size: str = "demo"
    phase1_epochs: int | None = None
    phase2_steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("phase1_epochs", "phase2_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")

    def text(self) -> str:
        """For people."""
        lengths = [
            f"phase 1 {f'{self.phase1_epochs} epochs' if self.phase1_epochs else 'as configured'}",
            f"phase 2 {f'{self.phase2_steps} steps' if self.phase2_steps else 'as configured'}",
        ]
        return f"wardrobe {self.size}, training seed {self.seed}, {', '.join(lengths)}"


@dataclass(frozen=True)
class Cell:
    """Our value of one cell beside the paper's; None = not measured, or a dash."""

    metric: str
    ours: float | None
    interval: Interval | None
    n: int | None
    protocol: str | None
    paper: float | None


class _State(TypedDict):
    """``ablation.json``: what a folder is made with, and the stages that are done."""

    settings: dict[str, Any]
    done: list[str]


class _Data(TypedDict):
    init_args: dict[str, Any]


class _RunConfig(TypedDict):
    """What is read of a run's ``config.yaml``."""

    data: _Data


def make_table(name: str, out: str | Path, settings: Settings | None = None) -> str:
    """Do what is not done yet, write ``out/NAME.md`` and ``out/NAME.json``, and return the table as Markdown.

    Args:
        name: ``table4`` or ``table5``.
        out: its folder; recipes that it already holds are not trained again, one that was cut off starts its stage anew.

    Raises:
        ValueError: unknown table, or a folder whose recipes were made with other settings.
        WriteError: ``out`` cannot be written.
    """
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}; known are {', '.join(TABLES)}")
    table, out, settings = TABLES[name], check_writable(out, folder=True), settings or Settings()
    out.mkdir(parents=True, exist_ok=True)
    with working_in(out):
        for recipe in dict.fromkeys(row.recipe for row in table.rows):
            run_recipe(recipe, settings, [row.method for row in table.rows if row.recipe == recipe])
        result = collect(table, settings)
        text = markdown(result)
        write_text(f"{name}.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        write_text(f"{name}.md", text)
    return text


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The configs name run folders relative to the current folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_recipe(recipe: str, settings: Settings, methods: Sequence[str] = ()) -> None:
    """Train and test a recipe in ``runs/RECIPE`` of the current folder, stage by stage.

    Raises:
        ValueError: the folder was made with other settings or another version, or not by this function.
    """
    folder = Path("runs") / recipe
    stages = stages_of(recipe, settings)
    wanted = {**asdict(settings), "version": __version__}
    state = _state(folder, wanted)
    done = list(takewhile(lambda stage: stage in state["done"] and stages[stage][0].exists(), stages))
    rest = [stage for stage in stages if stage not in done]
    if done:
        rows = f" ({', '.join(methods)})" if methods else ""
        print(f"{folder}{rows}: {', '.join(done)} already done, skipped" + ("" if rest else "; nothing left to do"))
    for stage in rest:
        made, work = stages[stage]
        _save(folder, wanted, done)
        if made.is_dir():
            shutil.rmtree(made)
        print(f"{folder}: {stage}", flush=True)
        work()
        done.append(stage)
        _save(folder, wanted, done)


def stages_of(recipe: str, settings: Settings) -> dict[str, tuple[Path, Callable[[], None]]]:
    """Stage -> what it makes, and how; in order."""
    folder = Path("runs") / recipe
    captions, checkpoint = folder / "gallery-captions.jsonl", folder / "phase2" / "checkpoints" / "last.ckpt"
    common = ["--data.size", settings.size, "--seed_everything", str(settings.seed), *BATCHES.get(settings.size, [])]

    epochs = [] if settings.phase1_epochs is None else ["--trainer.max_epochs", str(settings.phase1_epochs)]
    steps = str(settings.phase2_steps)
    length = [] if settings.phase2_steps is None else ["--trainer.max_steps", steps, "--trainer.val_check_interval", steps]
    gallery = ["--data.gallery_captions", str(captions)] if recipe in CAPTIONED else []
    phase1, phase2 = (["--config", f"ablations/{recipe}-{phase}.yaml", *common] for phase in ("phase1", "phase2"))
    stages: dict[str, tuple[Path, Callable[[], None]]] = {
        "phase1": (folder / "phase1", lambda: train(["fit", *phase1, *epochs])),
        "phase2": (folder / "phase2", lambda: train(["fit", *phase2, *length])),
        "captions": (captions, lambda: write_captions(folder / "phase2", captions)),
        "test": (folder / "phase2" / "test", lambda: train(["test", *phase2, "--ckpt_path", str(checkpoint), *gallery])),
    }
    if recipe not in CAPTIONED:
        del stages["captions"]
    return stages


def write_captions(run: Path, out: Path) -> None:
    """Caption the validation gallery of a phase-2 run's DataModule with the run's own caption head."""
    from unifashion_pl import UniFashionModule
    from unifashion_pl.datamodules import WardrobeDataModule
    from unifashion_pl.datamodules.captioners import write_gallery_captions

    config: _RunConfig = read_yaml(run / "config.yaml", _RunConfig, "the configuration of a run")
    data = WardrobeDataModule(**{**config["data"]["init_args"], "pairs": False, "triplets": True})
    data.prepare_data()
    data.setup("test")
    model = UniFashionModule.from_pretrained(run / "checkpoints" / "last.ckpt")
    write_gallery_captions(model, (batch for loader in data.test_dataloader() for batch in loader), out)


def _state(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    path = folder / STATE
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"{folder.resolve()} is not empty and has no {STATE}: name another --out, or move that folder away"
            )
        return {"settings": wanted, "done": []}
    state: dict[str, Any] = {**read_json(path, _State, "the state of an ablation")}
    found = state["settings"]
    if found != wanted:
        other = [f"{key} {found.get(key)!r} (asked for: {wanted[key]!r})" for key in wanted if found.get(key) != wanted[key]]
        raise ValueError(f"{folder.resolve()} was made with {', '.join(other)}: name another --out, or remove that folder")
    return state


def _save(folder: Path, settings: dict[str, Any], done: Sequence[str]) -> None:
    write_text(folder / STATE, json.dumps({"settings": settings, "done": list(done)}) + "\n")


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
    absent = [method for method in paper if ours.get(method) is None or paper[method] is None]
    if absent:
        return {"matches": None, "sentence": f"The order by {metric} cannot be judged: no value for {', '.join(absent)}."}
    own = {method: value for method, value in ours.items() if value is not None}
    order, printed = _ranking(own), _ranking({method: value for method in own if (value := paper.get(method)) is not None})
    if order == printed:
        text = f"By {metric} our rows stand in the paper's order, {order}"
    else:
        text = f"By {metric} our order, {order}, is not the paper's, {printed}; at tiny size it need not be"
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
