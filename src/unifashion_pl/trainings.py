"""Trainings of the recipes of ``configs/ablations/``, stage by stage; one that was cut off goes on with the stage that it was in."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, TypedDict

from unifashion_pl import UniFashionModule, __version__
from unifashion_pl.cli.training import train
from unifashion_pl.datamodules import WardrobeDataModule
from unifashion_pl.datamodules.captioners import write_gallery_captions
from unifashion_pl.files import write_text
from unifashion_pl.reading import read_json, read_yaml

STATE = "ablation.json"
#: Recipes whose captions the gallery of their test is searched by.
CAPTIONED = ("llm", "full")
#: The tiny wardrobe has fewer triplets than one batch of the configs.
BATCHES = {"tiny": ["--data.batch_size", "8", "--data.triplet_batch_size", "8"]}


@dataclass(frozen=True)
class Settings:
    """How the recipes of a folder are trained; None = as their configs say.

    Attributes:
        size: of the wardrobe.
        phase1_epochs, phase2_steps: length of the phases.
        seed: of training; the wardrobe stays the same.
    """

    size: str = "demo"
    phase1_epochs: int | None = None
    phase2_steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("phase1_epochs", "phase2_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")

    def text(self) -> str:
        """For people."""
        first = f"{self.phase1_epochs} epochs" if self.phase1_epochs else "as configured"
        second = f"{self.phase2_steps} steps" if self.phase2_steps else "as configured"
        return f"wardrobe {self.size}, training seed {self.seed}, phase 1 {first}, phase 2 {second}"


class _State(TypedDict):
    """``ablation.json``: what a folder is made with, and the stages that are done."""

    settings: dict[str, Any]
    done: list[str]


class _Data(TypedDict):
    init_args: dict[str, Any]


class _RunConfig(TypedDict):
    """What is read of a run's ``config.yaml``."""

    data: _Data


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The configs name run folders relative to the current folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_recipe(recipe: str, settings: Settings, methods: Sequence[str] = ()) -> None:
    """Train and test a recipe in ``runs/RECIPE`` of the current folder, stage by stage.

    Raises:
        ValueError: the folder was made with other settings or another version, or not by this function.
    """
    folder = Path("runs") / recipe
    stages = stages_of(recipe, settings)
    wanted = {**asdict(settings), "version": __version__}
    state = _state(folder, wanted)
    done = list(takewhile(lambda stage: stage in state["done"] and stages[stage][0].exists(), stages))
    rest = [stage for stage in stages if stage not in done]

    def save(done: list[str]) -> None:
        write_text(folder / STATE, json.dumps({"settings": wanted, "done": done}) + "\n")

    if done:
        rows = f" ({', '.join(methods)})" if methods else ""
        print(f"{folder}{rows}: {', '.join(done)} already done, skipped" + ("" if rest else "; nothing left to do"))
    for stage in rest:
        made, work = stages[stage]
        save(done)
        if made.is_dir():
            shutil.rmtree(made)
        print(f"{folder}: {stage}", flush=True)
        work()
        done.append(stage)
        save(done)


Stages = dict[str, tuple[Path, Callable[[], None]]]


def stages_of(recipe: str, settings: Settings) -> Stages:
    """Stage -> what it makes, and how; in order."""
    folder = Path("runs") / recipe
    captions, checkpoint = folder / "gallery-captions.jsonl", folder / "phase2" / "checkpoints" / "last.ckpt"
    common = ["--data.size", settings.size, "--seed_everything", str(settings.seed), *BATCHES.get(settings.size, [])]
    epochs = [] if settings.phase1_epochs is None else ["--trainer.max_epochs", str(settings.phase1_epochs)]
    steps = str(settings.phase2_steps)
    length = [] if settings.phase2_steps is None else ["--trainer.max_steps", steps, "--trainer.val_check_interval", steps]
    gallery = ["--data.gallery_captions", str(captions)] if recipe in CAPTIONED else []
    phase1, phase2 = (["--config", f"ablations/{recipe}-{phase}.yaml", *common] for phase in ("phase1", "phase2"))
    stages: Stages = {
        "phase1": (folder / "phase1", lambda: train(["fit", *phase1, *epochs])),
        "phase2": (folder / "phase2", lambda: train(["fit", *phase2, *length])),
        "captions": (captions, lambda: write_captions(folder / "phase2", captions)),
        "test": (folder / "phase2" / "test", lambda: train(["test", *phase2, "--ckpt_path", str(checkpoint), *gallery])),
    }
    if recipe not in CAPTIONED:
        del stages["captions"]
    return stages


def write_captions(run: Path, out: Path) -> None:
    """Caption the validation gallery of a phase-2 run's DataModule with the run's own caption head."""
    config: _RunConfig = read_yaml(run / "config.yaml", _RunConfig, "the configuration of a run")
    data = WardrobeDataModule(**{**config["data"]["init_args"], "pairs": False, "triplets": True})
    data.prepare_data()
    data.setup("test")
    model = UniFashionModule.from_pretrained(run / "checkpoints" / "last.ckpt")
    write_gallery_captions(model, (batch for loader in data.test_dataloader() for batch in loader), out)


def _state(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    path = folder / STATE
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"{folder.resolve()} is not empty and has no {STATE}: name another --out, or move that folder away"
            )
        return {"settings": wanted, "done": []}
    state: dict[str, Any] = {**read_json(path, _State, "the state of an ablation")}
    found = state["settings"]
    if found != wanted:
        other = [f"{key} {found.get(key)!r} (asked for: {wanted[key]!r})" for key in wanted if found.get(key) != wanted[key]]
        raise ValueError(f"{folder.resolve()} was made with {', '.join(other)}: name another --out, or remove that folder")
    return state
