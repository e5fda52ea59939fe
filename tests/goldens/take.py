"""What a rebuilding of the code must leave as it is: names that users call, names in state dicts, and what a small run writes.

``PYTHONPATH=tests python -m goldens.take FOLDER`` writes them; ``--compare`` says what differs from those of a folder, to the last digit.
The files beside this one are of 2026-11-29, before the rooms were rebuilt.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import inspect
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Rooms whose names users import and class paths name.
ROOMS = (
    "",
    "ablations",
    "backbone",
    "callbacks",
    "datamodules",
    "evaluation",
    "freezing",
    "gallery",
    "generation",
    "losses",
    "metrics",
)
ROOMS = (*ROOMS, "metrics.records", "optim", "sharding", "tasks", "weights.checkpoint", "parameters", "resume", "curves")
STAGES = {"tiny": ("phase1.yaml",), "try-on": ("tryon.yaml",), "paper": ("phase1.yaml", "paper.yaml")}
TOY = ("--data.size", "tiny", "--trainer.accelerator", "cpu")
#: AdamW as it was then, whose sums another order of the same operations rounds otherwise.
PLAIN = ("--model.optim.init_args.fused", "false")
TEST = ("--model.evaluator.robustness", "true", "--model.evaluator.max_captions", "6", "--model.evaluator.max_images", "2")
#: Commands of the small run; what they write is kept.
RUN: dict[str, tuple[str, ...]] = {
    "phase1": ("fit", "--config", "phase1.yaml", *TOY, *PLAIN, "--trainer.max_steps", "3", "--trainer.log_every_n_steps", "1"),
    "phase2": ("fit", "--config", "phase2.yaml", *TOY, *PLAIN, "--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1",
               "--trainer.val_check_interval", "2", "--data.batch_size", "12", "--data.triplet_batch_size", "12", "--model.init_from", "tiny"),
    "tryon": ("fit", "--config", "tryon.yaml", *TOY, *PLAIN, "--data.batch_size", "6", "--data.tryon_batch_size", "4",
              "--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1"),
    "test": ("test", "--config", "phase2.yaml", *TOY, *TEST, "--model.init_from", "tiny"),
    "test-tryon": ("test", "--config", "tryon.yaml", *TOY, "--model.evaluator.max_edits", "1", "--model.evaluator.steps", "2", "--data.pairs", "false"),
    "predict": ("predict", "--config", "tryon.yaml", *TOY, "--model.painter.steps", "2", "--data.pairs", "false"),
}  # fmt: skip
#: Fields of records that differ from run to run.
PASSING = ("wall_seconds", "commit", "code_version")
#: Fields of records that say something since 2026-11-30, where those of before may have none.
FILLED = ("seed", "training_seed", "draws")


def public_names() -> dict[str, list[str]]:
    """Room -> its public classes and functions with their arguments, and their public methods."""
    found: dict[str, list[str]] = {}
    for room in ROOMS:
        module = importlib.import_module(f"unifashion_pl.{room}".rstrip("."))
        names = getattr(module, "__all__", None) or [
            n
            for n, v in vars(module).items()
            if getattr(v, "__module__", None) == module.__name__ or (hasattr(module, "__path__") and not inspect.ismodule(v))
        ]
        lines: list[str] = []
        for name in sorted(n for n in names if not n.startswith("_")):
            lines += _described(name, getattr(module, name))
        found[room] = lines
    return found


def _described(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield f"{name}({', '.join(arguments(value.__init__)[1:])})" if "__init__" in vars(value) else name
        for klass in reversed(value.__mro__):
            if klass.__module__.startswith("unifashion_pl"):
                for method, body in vars(klass).items():
                    if inspect.isfunction(body) and not method.startswith("_"):
                        yield f"{name}.{method}({', '.join(arguments(body)[1:])})"
    elif inspect.isfunction(value):
        yield f"{name}({', '.join(arguments(value))})"
    else:
        yield name


def arguments(function: Any) -> list[str]:
    """Names of what a function or a class takes; a class that hands further ones on takes those of its base, too."""
    found = inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters.items()
    names = [name for name, p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    hands_on = inspect.isclass(function) and any(p.kind is p.VAR_KEYWORD for _, p in found)
    base = function.__mro__[1] if hands_on else object
    return names + (arguments(base) if base.__module__.startswith("unifashion_pl") else [])


def command_lines() -> dict[str, list[str]]:
    """Command -> its options and positional arguments, as its help names them."""
    found: dict[str, list[str]] = {}
    pending: list[tuple[str, ...]] = [(name,) for name in _choices(_help())]
    while pending:
        words = pending.pop(0)
        text = _help(*words)
        deeper = _choices(text)
        pending += [(*words, name) for name in deeper]
        if not deeper:
            found[" ".join(words)] = sorted(
                {w.strip("[],=") for w in text.split() if w.startswith(("--", "[--")) and len(w) > 3}
            )
    return found


def options(commands: dict[str, list[str]]) -> dict[str, list[str]]:
    """Commands with the names of their options, in which ``-`` and ``_`` are the same."""
    return {words: sorted({name.replace("_", "-") for name in names}) for words, names in commands.items()}


def _help(*words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "unifashion_pl", *words, "--help"], capture_output=True, text=True, check=True
    ).stdout


def _choices(text: str) -> list[str]:
    listed = re.search(
        r"^(?:positional arguments|subcommands|Available subcommands).*?\n(.*?)(?:\n\n|\noptions:|\Z)", text, re.S | re.M
    )
    return re.findall(r"^ {4}([a-z][a-z-]*)\b", listed[1], re.M) if listed else []


def state_names() -> dict[str, list[str]]:
    """Stage -> name, shape and type of every tensor of its model."""
    from unifashion_pl.parameters import shapes_only

    models = {stage: shapes_only(configs) for stage, configs in STAGES.items()}
    return {
        stage: [f"{name} {tuple(value.shape)} {value.dtype}" for name, value in model.state_dict().items()]
        for stage, model in models.items()
    }


def small_run(folder: Path) -> dict[str, Any]:
    """What three short trainings and two tests write, without what differs from run to run."""
    found: dict[str, Any] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for name, words in RUN.items():
        there = folder / name
        there.mkdir(parents=True)
        done = subprocess.run(
            [sys.executable, "-m", "unifashion_pl", *words], cwd=there, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
        for path in sorted(there.rglob("*")):
            kept = f"{name}/{path.name}"
            if path.name == "results.json":
                found[kept] = [_lasting(record) for record in json.loads(path.read_text())]
            elif path.suffix == ".jsonl":
                found[kept] = [json.loads(line) for line in path.read_text().splitlines()]
            elif path.name == "metrics.csv":
                found[kept] = [line.split(",") for line in path.read_text().splitlines()]
    return found


def _lasting(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in PASSING}


def comparable(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two runs without the :data:`FILLED` fields of records that the old one has none of."""
    runs = ({**old}, {**new})
    for name in (name for name in old if name.endswith("/results.json") and name in new):
        pairs = [(dict(a), dict(b)) for a, b in zip(old[name], new[name])]
        for a, b in pairs:
            for field in (field for field in FILLED if a.get(field) is None):
                a.pop(field, None)
                b.pop(field, None)
        for run, kept, whole in zip(runs, zip(*pairs), (old, new)):
            run[name] = [*kept, *whole[name][len(pairs) :]]
    return runs


def differences(old: Any, new: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """Places where two trees of plain values differ; numbers by more than a share and an amount of ``tolerance``."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if key not in old or key not in new:
                yield f"{where}/{key}: only in the {'new' if key in new else 'old'}"
            else:
                yield from differences(old[key], new[key], tolerance, f"{where}/{key}")
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{where}: {len(old)} items, now {len(new)}"
        for index, (a, b) in enumerate(zip(old, new)):
            yield from differences(a, b, tolerance, f"{where}/{index}")
    elif not _equal(old, new, tolerance):
        yield f"{where}: {old!r}, now {new!r}"


def _equal(old: Any, new: Any, tolerance: float) -> bool:
    if old == new:
        return True
    try:
        return math.isclose(float(old), float(new), rel_tol=tolerance, abs_tol=tolerance)
    except (TypeError, ValueError):
        return False


def write(folder: Path, part: str, made: Any) -> None:
    """``part.json.gz``; the same content gives the same bytes."""
    text = json.dumps(made, indent=0, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / f"{part}.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def read(folder: Path, part: str) -> Any:
    """Inverse of :func:`write`."""
    return json.loads(gzip.decompress((folder / f"{part}.json.gz").read_bytes()))


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("folder", type=Path)
    asked.add_argument("--compare", action="store_true")
    asked.add_argument("--only", nargs="*", default=["names", "commands", "states", "run"])
    chosen = asked.parse_args()
    makers = {"names": public_names, "commands": command_lines, "states": state_names}
    status = 0
    for part in chosen.only:
        if part == "run":
            with tempfile.TemporaryDirectory() as scratch:
                made: Any = small_run(Path(scratch))
        else:
            made = makers[part]()
        if chosen.compare:
            old = read(chosen.folder, part)
            if part == "commands":
                old, made = options(old), options(made)
            made = json.loads(json.dumps(made))
            if part == "run":
                old, made = comparable(old, made)
            found = list(differences(old, made, 0.0, part))
            print(f"{part}: {len(found)} differences", *found[:60], sep="\n  ")
            status |= bool(found)
        else:
            chosen.folder.mkdir(parents=True, exist_ok=True)
            write(chosen.folder, part, made)
    raise SystemExit(status)
