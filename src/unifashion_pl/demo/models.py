"""Which model the page shows, and which one does what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import Task, lacks

#: Where `make demo` leaves its model, below its folder and below the one it is called in.
RUNS = ("runs/phase2/checkpoints/last.ckpt", "demo/runs/phase2/checkpoints/last.ckpt")
SHIPPED, OURS = "tiny", "the toy that comes with the package"
#: What the page offers -> the task that a model has to have learned for it.
NEEDED: dict[str, Task] = {
    "search": "retrieval",
    "composed": "composed",
    "caption": "caption",
    "tryon": "try-on",
    "design": "design",
}
PERSONS = ("tryon", "design")


@dataclass(frozen=True)
class Shown:
    """A model and where it comes from, as the page says it."""

    model: FashionModel
    name: str


@dataclass(frozen=True)
class Models:
    """The model of the page, and the one that paints persons; mostly the same."""

    main: Shown
    persons: Shown

    def of(self, what: str) -> Shown:
        """Which one does a thing of :data:`NEEDED`."""
        return self.persons if what in PERSONS else self.main

    def missing(self, what: str) -> str:
        """A sentence about what cannot be done, "" if it can."""
        return lacks(self.of(what).model, NEEDED[what])

    def sentence(self) -> str:
        """Which model answers what."""
        toy = ": it has learned drawings, and knows nothing of photographs"
        own = f"{self.main.name}{toy if self.main.model.toy else ''}"
        return own if self.persons is self.main else f"{own}. Try-on and design are by {self.persons.name}{toy}"


def found_run(folder: Path) -> Path | None:
    """The model of a finished `make demo` in a folder; None without one."""
    return next((folder / run for run in RUNS if (folder / run).is_file()), None)


def chosen(named: str | None, folder: Path, load: Callable[[str], FashionModel], told: Callable[[str], None]) -> Models:
    """The named model; without a name the run of `make demo`, if the folder has one, whose persons the shipped model paints; else the shipped one.

    Args:
        named: as commands name models.
        load: gives a model of such a name.
        told: is called with what is being read.
    """
    run = None if named is not None else found_run(folder)
    source = named or (SHIPPED if run is None else str(run))
    name = f"the model {named}" if named else f"the run of make demo, {run}" if run else OURS
    told(name)
    main = Shown(load(source), name)
    if run is None or not any(lacks(main.model, NEEDED[what]) for what in PERSONS):
        return Models(main, main)
    told("the shipped model, for try-on and design")
    return Models(main, Shown(load(SHIPPED), OURS))
