"""Runs targets on damaged inputs and counts what becomes of them. An input is *accepted*, *refused* with a sentence, or a failure."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.guard import SECRET, Forbidden, TooSlow, guarded, make_outside, use_canary
from fuzz.mutate import OUTSIDE, Change
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

#: Errors of value that no reader means for a person.
RAW = (UnicodeError, json.JSONDecodeError)
PACKAGES = ("/unifashion_pl/", "/datamodules/")


@dataclass(frozen=True)
class Target:
    """Something that reads what others wrote.

    Attributes:
        name: for the table and the command line.
        inputs: how many ``make fuzz`` tries.
        make: writes a valid input into an empty folder.
        changes: of that folder: strategy of files that differ from it.
        use: does with the folder what a user does; what it returns may hold nothing of files outside.
        refusals: exceptions that are documented for damaged input; they have to name the file or the folder.
        named: whether the message has to name them; bytes alone have no name.
    """

    name: str
    inputs: int
    make: Callable[[Path], object]
    changes: Callable[[Path], SearchStrategy[Change]]
    use: Callable[[Path], Any]
    refusals: tuple[type[BaseException], ...] = (ValueError, FileNotFoundError)
    named: bool = True


@dataclass
class Failure:
    """The first input that failed in a certain way, and how many did."""

    change: Change
    text: str
    count: int = 1


@dataclass
class Tally:
    """What became of a target's inputs."""

    name: str
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: dict[str, Failure] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """How many inputs failed."""
        return sum(failure.count for failure in self.failures.values())

    @property
    def inputs(self) -> int:
        """How many inputs were tried."""
        return self.accepted + self.refused + self.failed


class Place:
    """Folders of a session: valid inputs, the copy that is damaged, and files outside that nobody may read.

    Args:
        base: an empty folder.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.outside = make_outside(base / "outside")
        use_canary(base / "here")

    def valid(self, target: Target) -> Path:
        """The target's valid input, made once."""
        folder = self.base / "valid" / target.name
        if not folder.exists():
            folder.mkdir(parents=True)
            target.make(folder)
        return folder

    def copy(self, target: Target) -> Path:
        """A fresh copy of it, beside :attr:`outside`."""
        folder = self.base / target.name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.valid(target), folder)
        return folder

    def apply(self, change: Change, folder: Path) -> None:
        """Write the changed files; :data:`OUTSIDE` in them becomes the folder outside."""
        for name, data in change.items():
            path = folder / name
            path.unlink(missing_ok=True)
            if data is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data.replace(OUTSIDE.encode(), os.fsencode(self.outside)))

    def restore(self, change: Change, folder: Path, valid: Path) -> None:
        """Undo a change."""
        for name in change:
            (folder / name).unlink(missing_ok=True)
            if (valid / name).is_file():
                shutil.copy2(valid / name, folder / name)


def attempt(target: Target, place: Place, folder: Path, change: Change) -> tuple[str, str]:
    """``accepted`` or ``refused`` and the message, else a name of the failure and its traceback."""
    try:
        with guarded(place.outside) as forbidden:
            out = target.use(folder)
        if forbidden:
            return f"forbidden: {forbidden[0]}", "it was swallowed"
        if _holds_secret(out):
            return "forbidden: a file outside is in what came out", ""
        return "accepted", ""
    except KeyboardInterrupt:
        raise
    except target.refusals as error:
        if forbidden:
            return f"forbidden: {forbidden[0]}", traceback.format_exc()
        if isinstance(error, RAW):
            return _kind(error), traceback.format_exc()
        if target.named and not any(name in str(error) for name in (str(folder), *(Path(n).name for n in change))):
            return f"no file named: {_kind(error)}", traceback.format_exc()
        return "refused", str(error)
    except (Forbidden, TooSlow) as error:
        return f"{type(error).__name__}: {str(error)[:60]} {_place(error)}", traceback.format_exc()
    except BaseException as error:
        return _kind(error), traceback.format_exc()


def _holds_secret(out: Any) -> bool:
    return SECRET in (out.encode("utf-8", "replace") if isinstance(out, str) else out if isinstance(out, bytes) else b"")


def _kind(error: BaseException) -> str:
    return f"{type(error).__name__} {_place(error)}"


def _place(error: BaseException) -> str:
    """Innermost line of this library that an error went through, and its innermost line at all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(part in frame.filename for part in PACKAGES)]
    names = [f"{Path(f.filename).name}:{f.name}" for f in (*ours[-1:], *frames[-1:])]
    return "in " + " > ".join(dict.fromkeys(names))


def fuzz(target: Target, place: Place, inputs: int, start: int = 0) -> Tally:
    """Try a number of inputs, the same ones for the same seed.

    Args:
        start: seed of the inputs.

    Raises:
        AssertionError: the valid input itself is not accepted, so that nothing would be tested.
    """
    tally = Tally(target.name)
    valid, folder = place.valid(target), place.copy(target)
    outcome, text = attempt(target, place, folder, {})
    assert outcome == "accepted", f"{target.name}: the valid input is not accepted: {outcome}\n{text}"

    def one(change: Change) -> None:
        place.apply(change, folder)
        outcome, text = attempt(target, place, folder, change)
        place.restore(change, folder, valid)
        if outcome in ("accepted", "refused"):
            setattr(tally, outcome, getattr(tally, outcome) + 1)
        elif outcome in tally.failures:
            tally.failures[outcome].count += 1
        else:
            tally.failures[outcome] = Failure(change, text)

    began = time.monotonic()
    # inputs are not shrunk: all failures of a run are wanted, not the smallest form of the first
    quiet = settings(
        max_examples=inputs, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    seed(start)(quiet(given(target.changes(valid))(one)))()
    tally.seconds = time.monotonic() - began
    return tally


def keep(tally: Tally, target: Target, place: Place, out: Path) -> dict[Path, str]:
    """Write every failing input, whole, with what happened, into folders of ``out``; they can be tried again with ``--again``.

    Returns:
        Folder -> what failed there, the commonest first.
    """
    made = {}
    for number, (kind, failure) in enumerate(sorted(tally.failures.items(), key=lambda item: -item[1].count)):
        folder = out / target.name / f"{number:02d}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place.valid(target), folder / "input")
        place.apply(failure.change, folder / "input")
        made[folder] = f"{failure.count} × {kind}\nchanged: {', '.join(failure.change)}"
        (folder / "what.txt").write_text(f"{made[folder]}\n{failure.text}")
    return made


def again(target: Target, place: Place, folder: Path) -> tuple[str, str]:
    """Try a kept input once more."""
    copy = place.copy(target)
    shutil.rmtree(copy)
    shutil.copytree(folder / "input", copy)
    return attempt(target, place, copy, {path.relative_to(copy).as_posix(): None for path in copy.rglob("*") if path.is_file()})


def table(tallies: Sequence[Tally]) -> str:
    """A line per target, and their sum."""
    everything = Tally(
        "all", sum(t.accepted for t in tallies), sum(t.refused for t in tallies), sum(t.seconds for t in tallies)
    )
    everything.failures = {f"{t.name}: {kind}": failure for t in tallies for kind, failure in t.failures.items()}
    lines = [f"{'target':<24}{'inputs':>9}{'refused':>9}{'accepted':>10}{'failed':>8}{'seconds':>9}"]
    lines += [
        f"{t.name:<24}{t.inputs:>9,}{t.refused:>9,}{t.accepted:>10,}{t.failed:>8,}{t.seconds:>9.1f}"
        for t in (*tallies, everything)
    ]
    return "\n".join(lines)


def by_name(targets: Sequence[Target]) -> Mapping[str, Target]:
    """Targets by their names, which are all different."""
    named = {target.name: target for target in targets}
    assert len(named) == len(targets)
    return named
