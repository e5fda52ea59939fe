"""The files of a run folder that the report reads; the only place that knows where they lie.

<run>/config.yaml                      what was asked for
<run>/**/metrics.csv                   learning curves (CSVLogger), one file per phase
<run>/**/events.out.tfevents.*         learning curves (TensorBoardLogger) where there is no metrics.csv
<run>/**/test/results.json             result records, see :mod:`unifashion_pl.metrics.records`
<run>/**/test/predictions/NAME.jsonl   one line per query or sample, see :mod:`unifashion_pl.metrics.lines`
<run>/**/test/images/                  what the lines marked ``shown`` need, named by :func:`~unifashion_pl.metrics.lines.image_name`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from unifashion_pl.metrics.lines import KINDS, Line, image_name, read_predictions
from unifashion_pl.metrics.records import ResultRecord, read_records
from unifashion_pl.reading import FormatError, converted, from_yaml, read_text
from unifashion_pl.reading_csv import parse_table
from unifashion_pl.report.events import PATTERN, read_events

#: Values of learning curves beyond this are drawn no more than infinite ones.
LARGEST = 1e30
#: Folders that every run has.
NOISE = ("lightning_logs", "test")
Kind = TypeVar("Kind", bound=Line)
Columns = dict[str, list[tuple[float, float]]]


@dataclass
class Evaluation:
    """One ``test`` folder: records, prediction lines and the images beside them."""

    label: str
    folder: Path
    records: list[ResultRecord]
    predictions: dict[str, list[Line]]

    def shown(self, name: str) -> list[Line]:
        """The lines of a prediction file that were chosen for showing."""
        return [line for line in self.predictions.get(name, []) if getattr(line, "shown", False)]

    def lines(self, kind: type[Kind]) -> list[Kind]:
        """All lines of a kind."""
        return [line for line in self.predictions.get(kind.file, []) if isinstance(line, kind)]

    def image(self, dataset: str, key: str) -> Path:
        """Where the thumbnail of an image is."""
        return self.picture(image_name(dataset, key))

    def picture(self, name: str) -> Path:
        """Where a picture of this evaluation is; a name or link that leads out of its folder gives a path at which nothing is."""
        folder = (self.folder / "images").resolve()
        path = (folder / name).resolve()
        return path if path.parent == folder else folder / ".outside"


@dataclass
class Run:
    """A run folder as the report sees it.

    Attributes:
        only_tested: the parts of which nothing says that they were trained here.
        curves: label of every ``metrics.csv``, and per column the steps and values that are filled in.
    """

    path: Path
    title: str = ""
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    config_texts: dict[str, str] = field(default_factory=dict)
    only_tested: set[str] = field(default_factory=set)
    curves: list[tuple[str, Columns]] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.title or self.path.resolve().name

    @property
    def is_toy(self) -> bool:
        """Whether any configuration names the procedural wardrobe or the tiny vocabulary."""
        texts = ["".join(text.lower().split()) for text in self.config_texts.values()]
        return any(word in text for text in texts for word in ("wardrobe", "tokenizer:tiny"))


def read_run(path: Path) -> Run:
    """Read one run folder, or a folder of phases (``phase1/``, ``phase2/``).

    Raises:
        FileNotFoundError: no such folder, or one without learning curves and results.
        FormatError: a file that cannot be read, by line and field, or one that is a link out of the folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no folder: expected a run folder with metrics.csv or test/results.json")
    run = Run(path)
    for file in _files(path, "config.yaml"):
        label = _label(path, file.parent)
        if file.parent.name == "test":
            if label in run.configs:
                continue  # what was trained says more than what `test` was called with
            run.only_tested.add(label)
        run.config_texts[label] = text = read_text(file)
        run.configs[label] = from_yaml(text, dict[str, Any], str(file), "a configuration")
        converted(run.configs[label], _Config, str(file), "a configuration")
    for file in _files(path, "metrics.csv"):
        if columns := _read_curves(file):
            run.curves.append((_label(path, file.parent), columns))
    for folder, files in groupby(_files(path, PATTERN), key=lambda file: file.parent):
        if not (folder / "metrics.csv").is_file() and (columns := _drawn(read_events([*files]))):
            run.curves.append((_label(path, folder), columns))
    for file in _files(path, "results.json"):
        folder = file.parent / "predictions"
        predictions = {name: read_predictions(_inside(path, folder / f"{name}.jsonl"), name) for name in KINDS}
        run.evaluations.append(Evaluation(_label(path, file.parent), file.parent, read_records(file), predictions))
    if not run.curves and not run.evaluations:
        raise FileNotFoundError(
            f"{path} holds neither metrics.csv nor results.json, nor event files of TensorBoard's: run `fit` or `test` into it first"
        )
    return run


def name_apart(runs: Sequence[Run]) -> Sequence[Run]:
    """Give runs whose folders are called alike longer names, as much of their paths as tells them apart; returns the runs."""
    paths = [run.path.resolve().parts for run in runs]
    for i, (run, own) in enumerate(zip(runs, paths)):
        others = paths[:i] + paths[i + 1 :]
        lengths = (n for n in range(1, len(own) + 1) if all(parts[-n:] != own[-n:] for parts in others))
        apart = own[-next(lengths, len(own) + 1) :]
        run.title = "/".join(apart) if own not in others else f"{own[-1]} ({1 + paths[:i].count(own)})"
    return runs


def _label(root: Path, folder: Path) -> str:
    """Path below the run without the parts that every run has; "" for the run itself."""

    def numbered(part: str) -> bool:
        return part.startswith("version_") and part.removeprefix("version_").isdecimal()

    return "/".join(part for part in folder.relative_to(root).parts if part not in NOISE and not numbered(part))


def _files(root: Path, name: str) -> list[Path]:
    found = sorted(file for file in root.rglob(name) if file.is_file())
    return [_inside(root, file) for file in found if not _set_aside(root, file)]


def _set_aside(root: Path, file: Path) -> bool:
    """Whether a file is of an earlier run that made room for another, as ``phase1.1`` beside ``phase1``; given by itself, it is shown."""
    folders = [place for place in file.parents if place != root and place.is_relative_to(root)]
    return any(place.suffix[1:].isdecimal() and place.with_suffix("").is_dir() for place in folders)


def _inside(root: Path, file: Path) -> Path:
    """The file, unless it is a link out of the run: what somebody else's folder points to does not belong into a report."""
    if not file.resolve().is_relative_to(root.resolve()):
        raise FormatError(
            f"{file} is a link to {file.resolve()}, outside of the run folder: copy the file there if it is meant"
        )
    return file


class _Config(TypedDict, total=False):
    """What is read of a configuration."""

    model: dict[str, Any] | None
    data: dict[str, Any] | None
    trainer: dict[str, Any] | None
    seed_everything: int | bool | None


def _read_curves(file: Path) -> Columns:
    """Columns of a CSVLogger file over ``step``; test results are no curves, and what is not finite or beyond :data:`LARGEST` is left out.

    A last line without an end is still being written and does not count.
    """
    text = read_text(file)
    table = parse_table(text[: text.rfind("\n") + 1], str(file))
    columns: Columns = {}
    for row in table.rows:
        cells = {name: _number(cell, f"{file}:{row.line}: {name}") for name, cell in zip(table.header, row.cells) if cell}
        step = cells.get("step", 0.0)
        if not abs(step) <= LARGEST:
            raise FormatError(f"{file}:{row.line}: step is {step}, expected a finite number")
        for name, value in cells.items():
            if name not in ("step", "epoch") and not name.startswith("test/") and abs(value) <= LARGEST:
                columns.setdefault(name, []).append((step, value))
    return columns


def _drawn(columns: Columns) -> Columns:
    """The same without results of tests, and without what cannot be drawn."""
    kept = {name: points for name, points in columns.items() if not name.startswith("test/")}
    fine = {name: [(x, y) for x, y in points if abs(y) <= LARGEST] for name, points in kept.items()}
    return {name: points for name, points in fine.items() if points}


def _number(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise FormatError(f"{where} is {cell[:40]!r}, expected a number") from error
