"""Run folders -> one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from unifashion_pl.files import check_writable, write_text
from unifashion_pl.metrics.protocol import AUDIT
from unifashion_pl.report.compare import add_comparison
from unifashion_pl.report.curves import chart, panels
from unifashion_pl.report.edits import add_edits
from unifashion_pl.report.guard import add_guard
from unifashion_pl.report.html import Page, details, table
from unifashion_pl.report.published import add_published, config_hash, duration
from unifashion_pl.report.rows import add_captions, add_composed_rows, add_images, add_retrieval
from unifashion_pl.report.runfolder import Evaluation, Run, name_apart, read_run
from unifashion_pl.report.tables import add_composed, add_numbers

FACTS = (
    ("policy", ("model", "policy")),
    ("vision tower", ("model", "backbone", "init_args", "vision", "init_args", "name")),
    ("image side", ("model", "backbone", "init_args", "vision", "init_args", "image_size")),
    ("queries", ("model", "backbone", "init_args", "num_queries")),
    ("hidden width", ("model", "backbone", "init_args", "hidden_size")),
    ("layers", ("model", "backbone", "init_args", "num_layers")),
    ("started from", ("model", "init_from")),
    ("batch size", ("data", "init_args", "batch_size")),
    ("steps", ("trainer", "max_steps")),
    ("epochs", ("trainer", "max_epochs")),
    ("precision", ("trainer", "precision")),
    ("devices", ("trainer", "devices")),
    ("seed", ("seed_everything",)),
)
#: Facts that say nothing about a run that was tested only.
TRAINING = ("steps", "epochs")


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
    return write_text(out, render(name_apart([read_run(Path(path)) for path in runs])))


def render(runs: Sequence[Run]) -> str:
    """The page as text; the same runs give the same bytes."""
    page = Page()
    add_curves(page, runs)
    _each(page, runs, "numbers", "Results", (add_numbers, add_composed, add_guard))
    add_comparison(page, runs)
    page.section("published", "Published numbers")
    add_published(page, runs)
    _each(page, runs, "retrieval", "Retrieval", (add_retrieval,))
    _each(page, runs, "composed", "Composed retrieval", (add_composed_rows,))
    _each(page, runs, "captions", "Captions", (add_captions,))
    _each(page, runs, "images", "Generated images", (add_images,))
    _each(page, runs, "edits", "Try-on and design", (add_edits,))
    add_provenance(page, runs)
    style = (files("unifashion_pl.report") / "style.css").read_text(encoding="utf-8")
    title = " · ".join(run.name for run in runs)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} – UniFashion report</title><style>{style}</style></head>"
        f"<body><main>{header(page, runs)}{''.join(page.parts)}</main></body></html>\n"
    )


def _each(
    page: Page, runs: Sequence[Run], anchor: str, title: str, makers: Sequence[Callable[[Page, Evaluation], None]]
) -> None:
    """A section with one part per evaluation that has something to show; none at all when nothing has."""
    parts: list[tuple[str, list[str]]] = []
    for run in runs:
        for evaluation in run.evaluations:
            before = len(page.parts)
            for make in makers:
                make(page, evaluation)
            made = page.parts[before:]
            del page.parts[before:]
            if made:
                parts.append((_name(runs, run, evaluation.label), made))
    if not parts:
        return
    page.section(anchor, title)
    for name, made in parts:
        if len(parts) > 1:
            page.add(f"<h3>{escape(name)}</h3>")
        page.add(*made)


def _name(runs: Sequence[Run], run: Run, label: str) -> str:
    names = [run.name] if len(runs) > 1 or not label else []
    return " / ".join([*names, *([label] if label else [])])


def header(page: Page, runs: Sequence[Run]) -> str:
    """Title, what was trained, the toy notice, contents."""
    facts = _facts(runs)
    toy = (
        '<p class="notice"><b>Toy data.</b> This run trained a tiny model on the procedural wardrobe, drawn garments with drawn words. '
        "It shows that every part works and learns; its numbers say nothing about photographs and are not comparable with the paper's.</p>"
        if any(run.is_toy for run in runs)
        else ""
    )
    contents = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in page.contents)
    title = "Run report" if len(runs) == 1 else f"Report of {len(runs)} runs"
    return (
        f'<header><p class="kicker">UniFashion · {escape(" · ".join(run.name for run in runs))}</p><h1>{title}</h1>'
        f'{toy}{facts}<nav aria-label="Contents"><ol>{contents}</ol></nav></header>'
    )


def _facts(runs: Sequence[Run]) -> str:
    """Configuration facts, one column per run and phase."""
    missing = "".join(f'<p class="note">No config.yaml in {escape(run.name)}.</p>' for run in runs if not run.configs)
    columns = [(_name(runs, run, label), config) for run in runs for label, config in run.configs.items()]
    trained = [label not in run.only_tested for run in runs for label in run.configs]
    if not columns:
        return missing
    rows = []
    for name, path in FACTS:
        values = [_lookup(config, path) for _, config in columns]
        if name in TRAINING:
            values = [value if learned else value and "tested only" for value, learned in zip(values, trained)]
        if any(v is not None for v in values):
            rows.append([name, *("–" if v is None else escape(str(v)) for v in values)])
    streams = [", ".join(_streams(config)) for _, config in columns]
    if any(streams):
        rows.append(["data", *(escape(s) or "–" for s in streams)])
    return table(["", *(escape(name) for name, _ in columns)], rows, "facts") + missing


def _lookup(config: dict[str, Any], path: Sequence[str]) -> Any:
    """A value by path; ``init_args`` levels may be absent. None also for -1, Lightning's word for no limit."""
    here: Any = config
    for name in path:
        if isinstance(here, dict) and name in here:
            here = here[name]
        elif name != "init_args":
            return None
    if isinstance(here, list):
        return " or ".join(map(str, here))
    return None if isinstance(here, dict) or here == -1 else here


def _streams(config: dict[str, Any]) -> list[str]:
    """Short class names below ``data``."""
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("class_path"), str):
                found.append(node["class_path"].rsplit(".", 1)[-1])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(config.get("data"))
    return list(dict.fromkeys(found))


def add_curves(page: Page, runs: Sequence[Run]) -> None:
    """Small multiples per phase."""
    drawn = [(run, curves, panels(curves.columns)) for run in runs for curves in run.curves]
    drawn = [(run, curves, charts) for run, curves, charts in drawn if charts]
    if not drawn:
        return
    page.section("curves", "Learning curves")
    for run, curves, charts in drawn:
        if len(drawn) > 1:
            page.add(f"<h3>{escape(_name(runs, run, curves.label))}</h3>")
        page.add(f'<div class="panels">{"".join(chart(panel) for panel in charts)}</div>')
        text = "Logged values over optimiser steps; long series as a moving average over the raw line. Beside each name its last value."
        page.add(page.caption("Figure", text))


ORIGINS = {
    "dataset": "dataset",
    "code version": "code_version",
    "commit": "commit",
    "weights": "weights_hash",
    "data": "data_hash",
    "measured by": "implementation",
}


def _origins(runs: Sequence[Run], run: Run) -> str:
    """Where the numbers come from: one row per evaluation and family of protocols, a column for every fact that any record has."""
    found: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    seconds: dict[str, float] = {}
    for evaluation in run.evaluations:
        for r in evaluation.records:
            if r.value is None or r.under.chance or r.under.score == AUDIT:
                continue
            if r.wall_seconds is not None:
                seconds[evaluation.label] = r.wall_seconds
            family = "robustness" if r.under.robustness else r.under.family
            facts = found.setdefault((evaluation.label, family), {name: {} for name in ORIGINS})
            for name, field in ORIGINS.items():
                if value := getattr(r, field):
                    facts[name][str(value).split(";")[0].removeprefix("unifashion_pl.")] = None
    names = [name for name in ORIGINS if any(facts[name] for facts in found.values())]
    rows = []
    for (label, family), facts in found.items():
        policy = _lookup(run.configs.get(label, {}), ("model", "policy"))
        cells = [", ".join(f"<code>{escape(value)}</code>" for value in facts[name]) or "–" for name in names]
        took = duration(seconds[label]) if label in seconds else "–"
        rows.append([escape(_name(runs, run, label) or run.name), escape(family), escape(str(policy or "–")), *cells, took])
    config = config_hash(run)
    note = f'<p class="note">Configuration of {escape(run.name)}: <code>{config}</code>.</p>' if config else ""
    return table(["evaluation", "numbers", "policy", *names, "wall time"], rows, "prose origins") + note


def add_provenance(page: Page, runs: Sequence[Run]) -> None:
    """Hashes, versions and the whole configuration."""
    page.section("provenance", "Provenance")
    for run in runs:
        if any(e.records for e in run.evaluations):
            page.add(_origins(runs, run))
        for label, text in run.config_texts.items():
            page.add(details(f"config.yaml {_name(runs, run, label)}", f"<pre>{escape(text)}</pre>"))
    if page.missing:
        page.add(
            f'<p class="note">{len(page.missing)} pictures named by the prediction files are missing from the run folder, or lie outside of it.</p>'
        )
