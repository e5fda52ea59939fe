"""Runs that belong together: the settings in which they differ, and the spread over training seeds of one recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from unifashion_pl.metrics.intervals import SeedSummary, seed_summary
from unifashion_pl.metrics.protocol import HEADLINE
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.runfolder import Evaluation, Run
from unifashion_pl.report.tables import Records, Results

#: Settings that say where a run lies, how it was begun and what runs it, and not what it is.
PLACES = (
    "ckpt_path",
    "config",
    "resume",
    "default_root_dir",
    "dirpath",
    "save_dir",
    "name",
    "version",
    "out",
    "trust_remote_code",
)
SEED = "seed_everything"
MOST = 40


@dataclass(frozen=True)
class Unit:
    """One training and its test: a run, or a phase of it."""

    name: str
    settings: dict[str, str]
    evaluation: Evaluation | None
    seed: int | None

    @property
    def recipe(self) -> tuple[tuple[str, str], ...]:
        """All settings but the seed."""
        return tuple(sorted((name, value) for name, value in self.settings.items() if name != SEED))


@dataclass(frozen=True)
class Spread:
    """One number over several seeds.

    Attributes:
        record: of the first run, for its names.
        values: of the runs, in their order.
        summary: mean, standard deviation and Student's intervals over seeds.
        over_queries: mean half-width of the runs' own intervals; None = they have none.
    """

    record: ResultRecord
    values: list[float]
    summary: SeedSummary
    over_queries: float | None


@dataclass(frozen=True)
class Sweep:
    """Runs of one phase: the settings in which they differ (with a value for each), and groups of runs of one recipe."""

    runs: list[str]
    differing: list[tuple[str, list[str]]]
    groups: list[tuple[str, list[Spread]]]


def sweep(runs: Sequence[Run]) -> list[Sweep]:
    """Everything that several runs, or a folder with several of them, show together; nothing for a single one."""
    units = [unit for run in runs for unit in _units(runs, run)]
    families: dict[tuple[str, ...], list[Unit]] = {}
    for unit in units:
        kind = (unit.settings.get("model.policy", ""), unit.settings.get("data.class_path", ""))
        families.setdefault(kind, []).append(unit)
    made = []
    for family in families.values():
        names = sorted({name for unit in family for name in unit.settings})
        rows = [(name, [unit.settings.get(name, "–") for unit in family]) for name in names]
        differing = [(name, values) for name, values in rows if len({*values}) > 1][:MOST]
        groups = [(title, spreads) for title, spreads in _groups(family) if spreads]
        if len(family) > 1 and (differing or groups):
            made.append(Sweep([unit.name for unit in family], differing, groups))
    return made


def _units(runs: Sequence[Run], run: Run) -> Iterator[Unit]:
    evaluations = {evaluation.label: evaluation for evaluation in run.evaluations}
    for label, config in run.configs.items():
        if label in run.only_tested:
            continue
        evaluation = evaluations.get(label)
        settings = dict(flat(config))
        trained = {r.training_seed for r in evaluation.records} - {None} if evaluation is not None else set()
        asked = config.get(SEED)
        seed = trained.pop() if len(trained) == 1 else asked if type(asked) is int else None
        name = " / ".join(part for part in (run.name if len(runs) > 1 or not label else "", label) if part)
        yield Unit(name, settings, evaluation, seed)


def flat(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of a configuration, ``init_args`` left out of the names; without :data:`PLACES`.

    >>> dict(flat({"model": {"init_args": {"lr": 0.1, "heads": ["a", "b"]}}, "ckpt_path": "x"}))
    {'model.lr': '0.1', 'model.heads': '["a", "b"]'}
    """
    if not isinstance(config, dict):
        yield path, config if isinstance(config, str) else json.dumps(_placeless(config), default=str)
        return
    for key, value in config.items():
        if key not in PLACES or (key == "name" and "vision" in path):  # a tower's name is what it is
            yield from flat(value, path if key == "init_args" else f"{path}.{key}" if path else str(key))


def _placeless(value: Any) -> Any:
    """The same without places, also inside of lists, as of callbacks."""
    if isinstance(value, dict):
        return {key: _placeless(inner) for key, inner in value.items() if key not in PLACES}
    return [_placeless(inner) for inner in value] if isinstance(value, list) else value


def _groups(units: Sequence[Unit]) -> Iterator[tuple[str, list[Spread]]]:
    """Runs of one recipe with different seeds, and what of their numbers was measured alike."""
    recipes: dict[tuple[tuple[str, str], ...], dict[int, Unit]] = {}
    for unit in units:
        if unit.seed is not None and unit.evaluation is not None:
            recipes.setdefault(unit.recipe, {}).setdefault(unit.seed, unit)
    for seeds in recipes.values():
        if len(seeds) > 1:
            title = ", ".join(f"{unit.name} (seed {seed})" for seed, unit in sorted(seeds.items()))
            yield title, _spreads([unit.evaluation for _, unit in sorted(seeds.items()) if unit.evaluation is not None])


def _spreads(evaluations: Sequence[Evaluation]) -> list[Spread]:
    tables = [{r.key: r for r in _shown(evaluation)} for evaluation in evaluations]
    spreads = []
    for key, record in tables[0].items():
        same = [table[key] for table in tables if key in table and table[key].data_hash == record.data_hash]
        values = [r.value for r in same if r.value is not None]
        if len(values) == len(tables):
            halves = [(r.interval.high - r.interval.low) / 2 for r in same if r.interval is not None]
            spreads.append(Spread(record, values, seed_summary(values), fmean(halves) if len(halves) == len(same) else None))
    return spreads


def _shown(evaluation: Evaluation) -> Records:
    """The paper's variant of composed retrieval, and what stands in the first table of everything else."""
    results = Results(evaluation.records)
    composed = [r for r in results.kept if r.under.variant == HEADLINE and r.under.half == "itc"]
    return [r for r in [*composed, *(r for group in results.plain for r in group)] if r.value is not None]
