"""What of a dataset is there, missing or broken, and what that does to each metric; and the way from raw data to shards."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unifashion_pl.data.plan import BadSample, Input, Item, MissingDataError, Plan
from unifashion_pl.data.recipes import FileRecipe, problem
from unifashion_pl.data.shards import write_shards

DATASETS = ("fashiongen", "fashion200k", "fashioniq", "fashioniq_cap", "vitonhd", "catalogue")
SHOWN = 20


@dataclass(frozen=True)
class Unusable:
    """A file that is absent or broken: id, role, reason and how many samples it takes along."""

    id: str
    role: str
    reason: str
    samples: int


@dataclass(frozen=True)
class SplitReport:
    """A split: ``groups`` is group -> ``{expected, usable}``."""

    name: str
    kind: str
    expected: int
    usable: int
    groups: dict[str, dict[str, int]]
    unusable: list[Unusable]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CheckReport:
    """Result of :func:`check_dataset`."""

    dataset: str
    root: str
    splits: list[SplitReport]
    notes: list[str]
    problem: str | None = None

    @property
    def complete(self) -> bool:
        """Whether there are samples in every split and all of them can be built."""
        return self.problem is None and bool(self.splits) and all(0 < s.usable == s.expected for s in self.splits)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready content."""
        return {**asdict(self), "complete": self.complete}

    def text(self) -> str:
        """The report for a terminal."""
        lines = [f"{self.dataset} in {self.root}: {'complete' if self.complete else 'INCOMPLETE'}"]
        if self.problem:
            lines.append(f"  {self.problem}")
        for split in self.splits:
            lines += _split_lines(split)
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def _split_lines(split: SplitReport) -> list[str]:
    lines = [f"  {split.name}: {split.kind} {_change(split.expected, split.usable)}"]
    lines += [
        f"    {group}: {_change(c['expected'], c['usable'])}"
        for group, c in split.groups.items()
        if c["usable"] < c["expected"]
    ]
    for bad in split.unusable[:SHOWN]:
        takes = f" (takes {bad.samples} samples along)" if bad.samples > 1 else ""
        lines.append(f"    {bad.role} {bad.id}: {bad.reason}{takes}")
    if len(split.unusable) > SHOWN:
        lines.append(f"    … and {len(split.unusable) - SHOWN:,} more files")
    return [*lines, *(f"    note: {note}" for note in split.notes)]


def _change(expected: int, usable: int) -> str:
    return f"{expected:,}" if usable == expected else f"{expected:,} -> {usable:,}"


def check_dataset(dataset: str, root: str | Path, *, progress: bool = True, **options: Any) -> CheckReport:
    """Look at every file that the dataset's samples need, once, by decoding it fully.

    Args:
        dataset: one of :data:`DATASETS`.
        root: the raw dataset.
        options: of the dataset's ``plans``.

    Raises:
        ValueError: unknown dataset.
    """
    module, root = _module(dataset), Path(root)
    try:
        plans = list(module.plans(root, **options))
        notes = module.findings(root, plans)
    except MissingDataError as error:
        return CheckReport(dataset, str(root), [], [], str(error))
    reasons = _inspect(plans, progress)
    return CheckReport(dataset, str(root), [_split_report(plan, reasons) for plan in plans], notes)


def build_shards(
    dataset: str,
    root: str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    allow_missing: bool = False,
    progress: bool = True,
    **options: Any,
) -> Iterator[Path]:
    """Raw dataset -> shards of all its splits; yields every finished index. Resumable, the same bytes for any number of workers.

    Args:
        dataset, root, options: as for :func:`check_dataset`.
        out: a folder per split comes into it.
        workers: processes.
        allow_missing: build evaluation splits although samples are lost.

    Raises:
        MissingDataError, RuntimeError: as :func:`unifashion_pl.data.shards.write_shards`.
        ValueError: unknown dataset.
    """
    for plan in _module(dataset).plans(Path(root), **options):
        yield write_shards(plan, out, workers=workers, allow_missing=allow_missing, progress=progress)


def _module(dataset: str) -> Any:
    if dataset not in DATASETS:
        raise ValueError(f"unknown dataset {dataset!r}; known are {', '.join(DATASETS)}")
    return importlib.import_module(f"unifashion_pl.datamodules.{dataset}")


def _inspect(plans: Sequence[Plan], progress: bool) -> dict[Path, str | None]:
    """Reason per unusable file, None for good ones; every file once, whatever the number of samples that need it."""
    files: dict[Path, Input] = {}
    for plan in plans:
        for item in plan.items:
            for needed in plan.recipe.inputs(item):
                files.setdefault(needed.path, needed)
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(files), desc="checking", unit="file", disable=not (progress and files)) as bar,
    ):
        reasons: dict[Path, str | None] = {}
        for path, reason in zip(files, pool.map(problem, files.values())):
            reasons[path] = reason
            bar.update()
    return reasons


def _split_report(plan: Plan, reasons: dict[Path, str | None]) -> SplitReport:
    groups = Counter(item.group for item in plan.items)
    lost: Counter[str] = Counter()
    hits: Counter[tuple[str, str, str]] = Counter()
    whole: list[Item] = []
    for item in plan.items:
        bad = [(n.id, n.role, r) for n in plan.recipe.inputs(item) if (r := reasons[n.path]) is not None]
        lost[item.group] += bool(bad)
        hits.update(bad)
        if not bad:
            whole.append(item)
    for item, flaw in _flaws(plan, whole):
        lost[item.group] += 1
        hits[flaw.id, flaw.role, flaw.reason] += 1
    return SplitReport(
        name=f"{plan.dataset}/{plan.split}",
        kind=plan.kind,
        expected=len(plan.items),
        usable=len(plan.items) - lost.total(),
        groups={group: {"expected": n, "usable": n - lost[group]} for group, n in sorted(groups.items())},
        unusable=[Unusable(id, role, reason, n) for (id, role, reason), n in sorted(hits.items())],
        notes=list(plan.notes),
    )


def _flaws(plan: Plan, whole: Sequence[Item]) -> Iterator[tuple[Item, BadSample]]:
    """Samples that cannot be made although their files are good: the image is damaged inside one big file, or files disagree."""

    def flaw(item: Item) -> BadSample | None:
        made = next(plan.recipe.make([item]))[1]
        return made if isinstance(made, BadSample) else None

    if not isinstance(plan.recipe, FileRecipe):
        for _, items in plan.shards():
            yield from ((item, made) for item, made in plan.recipe.make(items) if isinstance(made, BadSample))
    elif plan.recipe.fallible:
        with ThreadPoolExecutor() as pool:
            yield from ((item, bad) for item, bad in zip(whole, pool.map(flaw, whole)) if bad is not None)
