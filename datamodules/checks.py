"""What of a dataset is there, missing or broken, and what that does to each metric; and the way from raw data to shards."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm.contrib.concurrent import thread_map

from unifashion_pl.arguments import choice
from unifashion_pl.data.plan import DATASETS, BadSample, Input, Item, Made, MissingDataError, Plan, products_in_several
from unifashion_pl.data.recipes import FileRecipe, pixel_hash, read_input
from unifashion_pl.data.shards import write_shards

#: Share of the published samples from which on a folder is taken for the full dataset.
LIKE_FULL = 0.5
#: Kind of an evaluation split -> what is measured on it.
METRICS = {
    "queries": "composed retrieval: queries",
    "gallery": "composed retrieval: gallery images",
    "pairs": "retrieval and captions: images",
    "tryon": "FID, KID, SSIM, LPIPS: pairs",
}


@dataclass(frozen=True)
class Unusable:
    """A file that is absent or broken: id, role, reason and how many samples it takes along."""

    id: str
    role: str
    reason: str
    samples: int


@dataclass(frozen=True)
class Duplicates:
    """Different ids whose photos have equal pixels, and the splits they stand in."""

    ids: list[str]
    splits: list[str]

    @property
    def across(self) -> bool:
        """Whether a training picture is also one to evaluate on."""
        trained = [split for split in self.splits if split.endswith("/train")]
        return 0 < len(trained) < len(self.splits)


@dataclass(frozen=True)
class SplitReport:
    """A split: ``groups`` is group -> ``{expected, usable}``; ``published`` samples of the full dataset, None if nobody says.

    ``oddities`` are usable photos that are not plain RGB: in what they differ -> ids.
    """

    name: str
    kind: str
    expected: int
    usable: int
    groups: dict[str, dict[str, int]]
    unusable: list[Unusable]
    notes: list[str] = field(default_factory=list)
    published: int | None = None
    oddities: dict[str, list[str]] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """How the number of samples relates to the published one, in words; "" if nothing is published."""
        if self.published is None:
            return ""
        if self.expected == self.published:
            return "as many as published"
        if self.expected < LIKE_FULL * self.published:
            return f"a part: {self.expected:,} of {self.published:,} published ({100 * self.expected / self.published:.2g} %)"
        return f"published are {self.published:,}"

    @property
    def losses(self) -> dict[str, tuple[int, int]]:
        """Group -> (usable, expected) samples, of groups that lose some."""
        counts = {group: (c["usable"], c["expected"]) for group, c in self.groups.items()}
        return {group: (usable, expected) for group, (usable, expected) in counts.items() if usable < expected}

    @property
    def effects(self) -> list[str]:
        """What losses do to the n of metrics, by group; empty in training and without losses."""
        lost = {} if self.name.endswith("/train") else self.losses
        return [f"{METRICS.get(self.kind, self.kind)} of {group}: n {n:,} of {of:,}" for group, (n, of) in lost.items()]


@dataclass(frozen=True)
class CheckReport:
    """Result of :func:`check_dataset`.

    Attributes:
        dataset, root: what was looked at.
        splits: one report per split.
        notes: findings about the whole.
        problem: why nothing could be planned, or None.
        variant: which of the copies in circulation this is.
        licence: of the dataset, as its authors state it.
        duplicates: different ids with equal pixels.
    """

    dataset: str
    root: str
    splits: list[SplitReport]
    notes: list[str]
    problem: str | None = None
    variant: str = ""
    licence: str = ""
    duplicates: list[Duplicates] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether there are samples in every split and all of them can be built."""
        return self.problem is None and bool(self.splits) and all(0 < s.usable == s.expected for s in self.splits)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready content."""
        splits = [{**asdict(split), "size": split.size, "effects": split.effects} for split in self.splits]
        duplicates = [{**asdict(group), "across": group.across} for group in self.duplicates]
        return {**asdict(self), "splits": splits, "duplicates": duplicates, "complete": self.complete}


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
        notes, variant = products_in_several(plans), module.variant(root)
        notes += module.findings(root, plans) if hasattr(module, "findings") else []
    except MissingDataError as error:
        return CheckReport(dataset, str(root), [], [], str(error), licence=module.LICENCE)
    found = _inspect_files(plans, progress)
    equal: Equal = {}
    splits = [_split_report(plan, found, equal, module.PUBLISHED_SAMPLES.get(plan.folder), progress) for plan in plans]
    groups = [Duplicates(sorted(ids), sorted(set().union(*ids.values()))) for ids in equal.values() if len(ids) > 1]
    duplicates = sorted(groups, key=lambda group: group.ids)
    return CheckReport(dataset, str(root), splits, notes, None, variant, module.LICENCE, duplicates)


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
    return importlib.import_module(f"unifashion_pl.datamodules.{choice(dataset, 'dataset', DATASETS)}")


#: Hash of a photo's pixels -> ids (with the role, where an id has several photos) -> names of the splits they stand in.
Equal = dict[str, dict[str, set[str]]]
#: Roles of photos; other pictures (masks, label maps, sketches) are equal or odd for good reasons.
PHOTOS = frozenset({"image", "reference", "target", "person", "garment"})
ODDITIES = {"L": "grey", "LA": "grey with alpha", "P": "palette", "CMYK": "CMYK", "RGBA": "alpha", "1": "black and white"}


@dataclass(frozen=True)
class FileState:
    """What is to be said of an image file.

    Attributes:
        reason: why it is unusable, or None.
        pixels: hash of the upright RGB pixels of a usable photo, None of label maps and the like.
        oddity: in what a usable photo differs from plain upright RGB, e.g. ``CMYK``; "" if it does not.
    """

    reason: str | None = None
    pixels: str | None = None
    oddity: str = ""


def _look(needed: Input) -> FileState:
    try:
        picture = read_input(needed)
    except BadSample as error:
        return FileState(error.reason)
    if needed.role not in PHOTOS:
        return FileState()
    mode = "" if picture.image.mode == "RGB" else ODDITIES.get(picture.image.mode, picture.image.mode)
    turned = "turned by EXIF" if picture.turned else "damaged metadata, orientation unknown" if picture.flaw else ""
    return FileState(None, pixel_hash(picture.image), ", ".join(filter(None, (mode, turned))))


def _inspect_files(plans: Sequence[Plan], progress: bool) -> dict[Path, FileState]:
    """What is found in every file; each once, whatever the number of samples that need it. Threads: decoding frees Python's lock."""
    files: dict[Path, Input] = {}
    for needed in (needed for plan in plans for item in plan.items for needed in plan.recipe.inputs(item)):
        # a photo may also be needed in another role: looked at as a photo
        if needed.path not in files or needed.role in PHOTOS:
            files[needed.path] = needed
    quiet = not (progress and files)
    return dict(zip(files, thread_map(_look, list(files.values()), desc="checking", unit="file", disable=quiet)))


def _split_report(
    plan: Plan, found: Mapping[Path, FileState], equal: Equal, published: int | None, progress: bool
) -> SplitReport:
    """The report; photos of the split go into ``equal``."""
    groups = Counter(item.group for item in plan.items)
    lost: Counter[str] = Counter()
    hits: Counter[tuple[str, str, str]] = Counter()
    odd: dict[str, set[str]] = {}
    whole: list[Item] = []
    name = f"{plan.dataset}/{plan.split}"
    for item in plan.items:
        looked = [(needed, found[needed.path]) for needed in plan.recipe.inputs(item)]
        bad = [(needed.id, needed.role, state.reason) for needed, state in looked if state.reason is not None]
        hits.update(bad)
        lost[item.group] += bool(bad)
        whole += [] if bad else [item]
        for needed, state in looked:
            if state.pixels is not None:
                id = f"{needed.role} {needed.id}" if needed.role in ("person", "garment") else needed.id
                equal.setdefault(state.pixels, {}).setdefault(id, set()).add(name)
                odd.setdefault(state.oddity, set()).add(id)
    for item, result in _made(plan, whole, progress):
        if isinstance(result, BadSample):
            lost[item.group] += 1
            hits[result.id, result.role, result.reason] += 1
        elif result.pixels is not None:
            # ids are row numbers, which count from the start in every file
            equal.setdefault(result.pixels, {}).setdefault(f"{plan.split} {result.id}", set()).add(name)
    return SplitReport(
        name=name,
        kind=plan.kind,
        expected=len(plan.items),
        usable=len(plan.items) - lost.total(),
        groups={group: {"expected": n, "usable": n - lost[group]} for group, n in sorted(groups.items())},
        unusable=[Unusable(id, role, reason, n) for (id, role, reason), n in sorted(hits.items())],
        notes=list(plan.notes),
        published=published,
        oddities={oddity: sorted(ids) for oddity, ids in sorted(odd.items()) if oddity},
    )


def _made(plan: Plan, whole: Sequence[Item], progress: bool) -> Iterator[tuple[Item, Made | BadSample]]:
    """What the recipe makes of items whose files are good, where it may fail all the same, and of images inside one big file.

    The image may be damaged inside an HDF5 file, or the files of a sample disagree.
    """
    recipe = plan.recipe.quick() if isinstance(plan.recipe, FileRecipe) else plan.recipe
    parts: list[Sequence[Item]] = [items for _, items in plan.shards()]
    if isinstance(recipe, FileRecipe):
        parts = [[item] for item in whole] if recipe.fallible else []

    def made(items: Sequence[Item]) -> list[tuple[Item, Made | BadSample]]:
        return [
            (i, r if isinstance(r, BadSample) else replace(r, fields={})) for i, r in recipe.make(items)
        ]  # without the bytes

    quiet = not (progress and parts)
    yield from chain(*thread_map(made, parts, desc=f"trying {plan.name}", unit="part", disable=quiet))
