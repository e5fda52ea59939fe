"""Run folders -> one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unifashion_pl.files import check_writable, write_text
from unifashion_pl.metrics.protocol import AUDIT
from unifashion_pl.report.compare import comparisons
from unifashion_pl.report.curves import panels
from unifashion_pl.report.headlines import headlines
from unifashion_pl.report.page import render
from unifashion_pl.report.published import config_hash, published
from unifashion_pl.report.runfolder import Run, name_apart, read_run
from unifashion_pl.report.sweeps import sweep
from unifashion_pl.report.tables import Results

FACTS = {
    "policy": "model.policy",
    "vision tower": "model.backbone.vision.name",
    "image side": "model.backbone.vision.image_size",
    "queries": "model.backbone.num_queries",
    "hidden width": "model.backbone.hidden_size",
    "layers": "model.backbone.num_layers",
    "started from": "model.init_from",
    "batch size": "data.batch_size",
    "steps": "trainer.max_steps",
    "epochs": "trainer.max_epochs",
    "precision": "trainer.precision",
    "devices": "trainer.devices",
    "seed": "seed_everything",
}
#: Facts that say nothing about a run that was tested only.
TRAINING = ("steps", "epochs")
#: Kind of predictions -> title of the section that shows them.
SHOWN = {
    "retrieval": "Retrieval",
    "composed": "Composed retrieval",
    "captions": "Captions",
    "images": "Generated images",
    "edits": "Try-on and design",
}
#: Column of the table of origins -> field of a record.
ORIGINS = {
    "dataset": "dataset",
    "code version": "code_version",
    "commit": "commit",
    "weights": "weights_hash",
    "data": "data_hash",
    "measured by": "implementation",
}


def build_report(runs: Sequence[Path | str], out: Path | str) -> Path:
    """Write the report of one or more run folders.

    Args:
        runs: run folders, or folders that hold one folder per phase. Nothing else is read.
        out: the HTML file; its folder is made if need be.

    Returns:
        ``out``.

    Raises:
        ValueError: no run given, or a damaged file in one.
        FileNotFoundError: a folder that is not there or holds no results.
        WriteError: ``out`` cannot be written; an older page stays as it is.
    """
    if not runs:
        raise ValueError("no run folder given: unifashion report RUN [RUN …] --out report.html")
    out = Path(out)
    check_writable(out)
    return write_text(out, page_of(name_apart([read_run(Path(path)) for path in runs])))


def page_of(runs: Sequence[Run]) -> str:
    """The page as text; the same runs give the same bytes."""
    sections = [(anchor, title, parts) for anchor, title, parts in _sections(runs) if parts]
    tests = [(_name(runs, run, evaluation.label), evaluation) for run in runs for evaluation in run.evaluations]
    return render("page.html", runs=runs, learned=headlines(tests), sections=sections)


def _sections(runs: Sequence[Run]) -> Iterator[tuple[str, str, list[tuple[str, Any]]]]:
    """Anchor, title and parts by heading; each part is laid out by the template of the anchor's name."""
    tests = [(_name(runs, run, evaluation.label), evaluation) for run in runs for evaluation in run.evaluations]
    charts = [(_name(runs, run, label), panels(columns)) for run in runs for label, columns in run.curves]
    yield "numbers", "Results", [(name, Results(e.records)) for name, e in tests if e.records]
    yield "comparison", "Comparison of the runs", comparisons(runs)
    yield "sweep", "Settings and seeds", [("", one) for one in sweep(runs)]
    yield "published", "Published numbers", [("", published(runs))]
    for kind, title in SHOWN.items():
        yield kind, title, [(name, evaluation) for name, evaluation in tests if evaluation.shown(kind)]
    yield "curves", "Learning curves", [(name, drawn) for name, drawn in charts if drawn]
    yield "configuration", "Configuration", [("", _facts(runs))]
    yield "provenance", "Provenance", [("", [(run, config_hash(run), *_provenance(runs, run)) for run in runs])]


def _name(runs: Sequence[Run], run: Run, label: str) -> str:
    names = [run.name if len(runs) > 1 or not label else "", label]
    return " / ".join(name for name in names if name)


def _facts(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Names of runs and phases, and what any of them was configured with: (fact, a value per name)."""
    columns = [(_name(runs, run, label), config) for run in runs for label, config in run.configs.items()]
    trained = [label not in run.only_tested for run in runs for label in run.configs]
    table: list[tuple[str, list[str]]] = []
    for name, path in FACTS.items():
        values = [_lookup(config, path.split(".")) for _, config in columns]
        if name in TRAINING:
            values = [value if learned else value and "tested only" for value, learned in zip(values, trained)]
        if any(v is not None for v in values):
            table.append((name, ["–" if v is None else str(v) for v in values]))
    streams = [", ".join(dict.fromkeys(_classes(config.get("data")))) for _, config in columns]
    if any(streams):
        table.append(("data", [s or "–" for s in streams]))
    return [name for name, _ in columns], table


def _lookup(config: dict[str, Any], path: Sequence[str]) -> Any:
    """A value by path, through ``init_args`` where there are any. None also for -1, Lightning's word for no limit."""
    here: Any = config
    for name in path:
        if isinstance(here, dict) and name not in here:
            here = here.get("init_args")
        if not isinstance(here, dict) or name not in here:
            return None
        here = here[name]
    if isinstance(here, list):
        return " or ".join(map(str, here))
    return None if isinstance(here, dict) or here == -1 else here


def _classes(node: Any) -> Iterator[str]:
    """Short names of the classes below a part of a configuration."""
    if isinstance(node, dict):
        if isinstance(node.get("class_path"), str):
            yield node["class_path"].rsplit(".", 1)[-1]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _classes(value)


def _provenance(runs: Sequence[Run], run: Run) -> tuple[list[dict[str, Any]], list[str], list[tuple[str, str]]]:
    """Origins of a run's numbers by evaluation and family, the facts that any of them has, and the configurations by name."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for evaluation in run.evaluations:
        label = evaluation.label
        policy = str(_lookup(run.configs.get(label, {}), ("model", "policy")) or "–")
        for r in evaluation.records:
            if r.value is None or r.under.chance or r.under.score == AUDIT:
                continue
            family = "robustness" if r.under.robustness else r.under.family
            new = {"evaluation": _name(runs, run, label) or run.name, "family": family, "policy": policy, "seconds": None}
            origin = found.setdefault((label, family), {**new, "facts": {name: {} for name in ORIGINS}})
            origin["seconds"] = origin["seconds"] if r.wall_seconds is None else r.wall_seconds
            for name, field in ORIGINS.items():
                if value := getattr(r, field):
                    origin["facts"][name][str(value).split(";")[0].removeprefix("unifashion_pl.")] = None
    known = [name for name in ORIGINS if any(origin["facts"][name] for origin in found.values())]
    return list(found.values()), known, [(_name(runs, run, label), text) for label, text in run.config_texts.items()]
