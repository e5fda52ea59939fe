"""The files of a run folder that evaluation writes and the report reads; the only place that knows their form.

<run>/config.yaml                      what was asked for
<run>/**/metrics.csv                   learning curves (CSVLogger), one file per phase
<run>/**/test/results.json             result records, see :mod:`unifashion_pl.metrics.records`
<run>/**/test/predictions/NAME.jsonl   one line per query or sample: retrieval, composed, captions, images, edits
<run>/**/test/images/                  what the lines marked ``shown`` need, named by :func:`image_name`
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unifashion_pl.metrics.records import ResultRecord, read_records
from unifashion_pl.report.lines import current

Line = dict[str, Any]
PREDICTIONS = ("retrieval", "composed", "captions", "images", "edits")
_NOISE = re.compile(r"^(version_\d+|lightning_logs|test|\.)$")


def image_name(dataset: str, key: str) -> str:
    """File name of a thumbnail; safe for every id, and unique: what was replaced is told apart by a hash.

    >>> image_name("fashioniq/val", "B008BHCT58")
    'fashioniq-val--B008BHCT58.jpg'
    """
    name = f"{dataset.replace('/', '-')}--{key}"
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:120]
    if safe != name:
        safe += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return safe + ".jpg"


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object per line, keys sorted, UTF-8."""
    text = "".join(json.dumps(line, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def read_lines(path: Path) -> list[Line]:
    """Inverse of :func:`write_lines`; a missing file is an empty list.

    Raises:
        ValueError: a line that is no JSON object, by file and number.
    """
    if not path.is_file():
        return []
    lines: list[Line] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error.msg}); was the run cut off while it wrote?") from error
        if not isinstance(line, dict):
            raise ValueError(f"{path}, line {number}: expected an object, found {type(line).__name__}")
        lines.append(line)
    return lines


@dataclass
class Evaluation:
    """One ``test`` folder: records, prediction lines and the images beside them."""

    label: str
    folder: Path
    records: list[ResultRecord]
    predictions: dict[str, list[Line]]

    def shown(self, name: str) -> list[Line]:
        """The lines of a prediction file that were chosen for showing."""
        return [line for line in self.predictions.get(name, []) if line.get("shown")]

    def image(self, dataset: str, key: str) -> Path:
        return self.folder / "images" / image_name(dataset, key)


@dataclass
class Curves:
    """One ``metrics.csv``: per column the steps and values that are filled in."""

    label: str
    columns: dict[str, list[tuple[float, float]]]


@dataclass
class Run:
    """A run folder as the report sees it; ``only_tested`` names the parts of which nothing says that they were trained here."""

    path: Path
    title: str = ""
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    config_texts: dict[str, str] = field(default_factory=dict)
    only_tested: set[str] = field(default_factory=set)
    curves: list[Curves] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.title or self.path.resolve().name

    @property
    def is_toy(self) -> bool:
        """Whether any configuration names the procedural wardrobe or the tiny vocabulary."""
        return any(re.search(r"wardrobe|tokenizer:\s*tiny", text, re.IGNORECASE) for text in self.config_texts.values())


def read_run(path: Path) -> Run:
    """Read one run folder, or a folder of phases (``phase1/``, ``phase2/``).

    Raises:
        FileNotFoundError: no such folder, or one without learning curves and results.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no folder: expected a run folder with metrics.csv or test/results.json")
    run = Run(path)
    for file in sorted(path.rglob("config.yaml")):
        if file.parent.name == "test" and _label(path, file.parent) in run.configs:
            continue  # what was trained says more than what `test` was called with
        if file.parent.name == "test":
            run.only_tested.add(_label(path, file.parent))
        text = file.read_text(encoding="utf-8")
        run.config_texts[_label(path, file.parent)] = text
        run.configs[_label(path, file.parent)] = _load_config(file, text)
    for file in sorted(path.rglob("metrics.csv")):
        columns = _read_curves(file)
        if columns:
            run.curves.append(Curves(_label(path, file.parent), columns))
    for file in sorted(path.rglob("results.json")):
        predictions = {
            name: [current(x) for x in read_lines(file.parent / "predictions" / f"{name}.jsonl")] for name in PREDICTIONS
        }
        run.evaluations.append(Evaluation(_label(path, file.parent), file.parent, read_records(file), predictions))
    if not run.curves and not run.evaluations:
        raise FileNotFoundError(f"{path} holds neither metrics.csv nor results.json: run `fit` or `test` into it first")
    return run


def name_apart(runs: Sequence[Run]) -> Sequence[Run]:
    """Give runs whose folders are called alike longer names, as much of their paths as tells them apart; returns the runs."""
    paths = [run.path.resolve().parts for run in runs]
    for i, run in enumerate(runs):
        others = [parts for j, parts in enumerate(paths) if j != i]
        for length in range(1, len(paths[i]) + 1):
            tail = paths[i][-length:]
            if all(parts[-length:] != tail for parts in others):
                run.title = "/".join(tail)
                break
        else:
            run.title = f"{paths[i][-1]} ({1 + paths[:i].count(paths[i])})"
    return runs


def _label(root: Path, folder: Path) -> str:
    """Path below the run without the parts that every run has; "" for the run itself."""
    return "/".join(part for part in folder.relative_to(root).parts if not _NOISE.match(part))


def _load_config(file: Path, text: str) -> dict[str, Any]:
    loaded = yaml.safe_load(text)
    if not isinstance(loaded, dict):
        raise ValueError(f"{file} is no configuration: expected a mapping, found {type(loaded).__name__}")
    return loaded


def _read_curves(file: Path) -> dict[str, list[tuple[float, float]]]:
    """Columns of a CSVLogger file over ``step``; test results are no curves and non-finite values are left out."""
    import csv
    import math

    columns: dict[str, list[tuple[float, float]]] = {}
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            step = float(row.get("step") or 0)
            for name, value in row.items():
                if name in ("step", "epoch") or not value or name.startswith("test/"):
                    continue
                number = float(value)
                if math.isfinite(number):
                    columns.setdefault(name, []).append((step, number))
    return columns
