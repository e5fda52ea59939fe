"""Looking at raw data in parallel: every image file once, and samples that can fail although their files are good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from unifashion_pl.data.plan import BadSample, Input, Item, Plan
from unifashion_pl.data.recipes import PHOTOS, FileRecipe, Finding, look

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Photo:
    """A usable photo of a plan: its id (with the role, where an id has several photos), pixels' hash, oddity and the plan's name."""

    id: str
    pixels: str
    oddity: str
    split: str


def inspect_files(plans: Sequence[Plan], progress: bool) -> dict[Path, Finding]:
    """What is found in every file; each once, whatever the number of samples that need it. Threads: decoding frees Python's lock."""
    files: dict[Path, Input] = {}
    for plan in plans:
        for item in plan.items:
            for needed in plan.recipe.inputs(item):
                # a photo may also be needed in another role: looked at as a photo
                if needed.path not in files or needed.role in PHOTOS:
                    files[needed.path] = needed
    return dict(zip(files, _parallel(look, list(files.values()), "checking", "file", progress)))


def flaws(plan: Plan, whole: Sequence[Item], progress: bool) -> Iterator[tuple[Item, BadSample | Photo]]:
    """Samples that cannot be made although their files are good, and photos that lie inside one big file.

    The image may be damaged inside an HDF5 file, or the files of a sample disagree.

    Args:
        whole: items whose files are good.
    """
    recipe: Any = plan.recipe

    def made(items: Sequence[Item]) -> list[tuple[Item, BadSample | Photo | None]]:
        return [(item, _judged(result, plan)) for item, result in recipe.make(items)]

    if not isinstance(recipe, FileRecipe):
        parts: list[Sequence[Item]] = [items for _, items in plan.shards()]
    elif recipe.fallible:
        recipe = recipe.quick()
        parts = [[item] for item in whole]
    else:
        return
    for results in _parallel(made, parts, f"trying {plan.name}", "part", progress):
        yield from ((item, result) for item, result in results if result is not None)


def _judged(result: Any, plan: Plan) -> BadSample | Photo | None:
    if isinstance(result, BadSample):
        return result
    # ids are row numbers, which count from the start in every file
    return (
        Photo(f"{plan.split} {result.id}", result.pixels, "", f"{plan.dataset}/{plan.split}")
        if result.pixels is not None
        else None
    )


def photos(plan: Plan, found: Mapping[Path, Finding]) -> Iterator[Photo]:
    """All usable photos that a plan's samples need."""
    several = len({n.role for item in plan.items[:1] for n in plan.recipe.inputs(item) if n.role in PHOTOS}) > 1
    for item in plan.items:
        for needed in plan.recipe.inputs(item):
            finding = found[needed.path]
            if finding.pixels is not None:
                named = several and needed.role in ("person", "garment")
                id = f"{needed.role} {needed.id}" if named else needed.id
                yield Photo(id, finding.pixels, finding.oddity, f"{plan.dataset}/{plan.split}")


def _parallel(function: Callable[[T], R], work: Sequence[T], title: str, unit: str, progress: bool) -> Iterable[R]:
    with ThreadPoolExecutor() as pool, tqdm(total=len(work), desc=title, unit=unit, disable=not (progress and work)) as bar:
        for result in pool.map(function, work):
            bar.update()
            yield result
