"""The folders that a training writes: which checkpoint in them is the newest, and how an earlier run keeps its place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only

from unifashion_pl.parts.tensors import read_content
from unifashion_pl.preemption import PATTERN

#: How often SLURM has put the job into its queue again.
RESTARTS = "SLURM_RESTART_COUNT"


def asked_to_resume(asked: str | None, ckpt_path: Any, env: Mapping[str, str] = os.environ) -> bool:
    """Whether a training looks for its newest checkpoint: it was asked to, or SLURM runs its job again.

    Raises:
        ValueError: two answers to where it goes on.
    """
    if asked and ckpt_path:
        raise ValueError(
            f"--resume {asked} finds the checkpoint itself, and --ckpt_path {ckpt_path} names one: leave out one of them"
        )
    return bool(asked) or (not ckpt_path and env.get(RESTARTS, "0") not in ("", "0"))


def folders(trainer: Any) -> tuple[Path | None, list[Path]]:
    """Where a run writes: the folder of its logger, if that is the same every time, and those of its checkpoints.

    Args:
        trainer: its config.
    """
    given = getattr(trainer.logger, "init_args", None)
    save_dir, name, version = (getattr(given, field, None) for field in ("save_dir", "name", "version"))
    log = None if save_dir is None or not isinstance(version, str) else Path(str(save_dir)) / (name or "") / version
    return log, saved_in(trainer) or ([log / "checkpoints"] if log is not None else [])


def saved_in(trainer: Any) -> list[Path]:
    """The folders that callbacks of a trainer's config name for checkpoints."""
    places = [getattr(getattr(callback, "init_args", None), "dirpath", None) for callback in trainer.callbacks or ()]
    return [Path(str(place)) for place in places if place]


def checkpoints(trainer: Any) -> list[Path]:
    """The checkpoints of a run, newest first: those of its callbacks, and what Lightning or this library wrote when a job was preempted.

    Links to what is not there any more are none.
    """
    log, saved = folders(trainer)
    root = getattr(trainer, "default_root_dir", None)
    found = {path.resolve(): path for place in saved for path in place.glob("*.ckpt")}
    for place in (log, Path(str(root)) if root else None):
        found |= {path.resolve(): path for path in (place.glob(PATTERN) if place is not None else ())}
    there = [path for path in found.values() if path.exists()]
    return sorted(there, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def newest(trainer: Any) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a run that a training can go on from, and sentences: what was chosen, and why newer ones were not."""
    said = []
    found = checkpoints(trainer)
    for path in found:
        try:
            step = steps_of(path)
        except ValueError as error:
            said.append(f"resume: {path} is passed over: {error}")
        else:
            others = f", the newest of {len(found)}" if len(found) > 1 else ""
            after = "" if step is None else f" after step {step:,}"
            return path, [*said, f"resume: goes on{after} from {path}{others}"]
    log, saved = folders(trainer)
    places = (
        ", ".join(sorted({str(place) for place in (log, *saved) if place is not None})) or "any folder that its config names"
    )
    return None, [
        *said,
        f"resume: no checkpoint {'can be read' if found else 'is there yet'} in {places}, so the training begins",
    ]


def steps_of(path: Path) -> int | None:
    """After how many optimiser steps a checkpoint was written; None for one that FSDP2 wrote as a folder.

    Raises:
        ValueError: it cannot be read, or holds weights alone.
    """
    if path.is_dir():
        if not (path / ".metadata").is_file():
            raise ValueError("the folder is not complete")
        return None
    content = read_content(path)
    if not isinstance(content, dict) or "loops" not in content or not content.get("optimizer_states"):
        raise ValueError("it holds weights alone, and a training goes on from its optimiser's state too")
    step = content.get("global_step")
    if type(step) is not int or step < 0:
        raise ValueError(
            f"its global_step is {step!r}, expected after how many steps it was written: no trainer of Lightning's wrote it"
        )
    return step


def set_aside(trainer: Any, start: Any, ckpt_path: Any) -> Iterator[str]:
    """Rename the folders of an earlier run that a new one would write over: ``runs/phase1`` to ``runs/phase1.1``, the next free number.

    What has no checkpoint, what the new run goes on from (``ckpt_path``) and what it starts from (``start``, as ``init_from`` says it) stay.

    Yields:
        A sentence for every folder.

    Raises:
        ValueError: an earlier run lies in the current folder, or above it, which cannot be renamed.
    """
    log, saved = folders(trainer)
    own = [place for place in saved if log is None or not place.resolve().is_relative_to(log.resolve())]
    for place in dict.fromkeys([*([log] if log is not None else []), *own]):
        there = sorted(place.glob("*.ckpt")) + sorted(place.glob("checkpoints/*.ckpt"))
        if not there or (
            ckpt_path and (ckpt_path in ("last", "hpc") or Path(str(ckpt_path)).resolve().is_relative_to(place.resolve()))
        ):
            continue
        if isinstance(start, str) and Path(start).exists() and _overlap(Path(start), place):
            yield f"{place} holds the run that this one starts from (init_from): its files are replaced by this one's"
            continue
        if Path.cwd().is_relative_to(place.resolve()):
            raise ValueError(
                f"{there[0]} is of an earlier training, which this one would write over: go on with it (--resume auto), or name another "
                "folder (ModelCheckpoint's dirpath)"
            )
        older = next(new for i in range(1, 10_000) if not (new := place.with_name(f"{place.name}.{i}")).exists())
        place.rename(older)
        yield f"{place} held an earlier run, which is {older} now (to go on with it instead: --resume auto)"


def _overlap(one: Path, other: Path) -> bool:
    one, other = one.resolve(), other.resolve()
    return one.is_relative_to(other) or other.is_relative_to(one)


def first_process() -> bool:
    """Whether this process speaks for all ranks of its run, as launchers number them."""
    return not (getattr(rank_zero_only, "rank", None) or 0)


def older_results(folder: Path | None) -> str:
    """What stands in a test's folder already, as a sentence; "" = nothing."""
    place = None if folder is None else folder / "results.json"
    if place is None or not place.is_file():
        return ""
    return f"{place} is of an earlier test: this one replaces it, its predictions and its pictures"
