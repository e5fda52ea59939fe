"""Learning curves of runs that only TensorBoard was told: the scalars of event files, read by TensorBoard itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unifashion_pl.reading import FormatError

#: Of event files; a run that was resumed has several in its folder.
PATTERN = "events.out.tfevents.*"
#: What Lightning writes beside curves.
NO_CURVES = ("epoch", "hp_metric")


def read_events(files: list[Path]) -> dict[str, list[tuple[float, float]]]:
    """Tag -> (step, value) by steps, of the event files of one folder; where two have a step, as after a resume, the later one counts.

    A last event that is still being written does not count.

    Raises:
        FormatError: the package tensorboard is not installed, or a file is none of its.
    """
    found: dict[str, dict[float, float]] = {}
    for file in sorted(files, key=_begun):
        began: dict[str, float] = {}
        for tag, step, value in _scalars(file):
            points = found.setdefault(tag, {})
            if tag not in began:  # steps after the place from which a run went on were taken anew
                began[tag] = step
                for older in [old for old in points if old >= step]:
                    del points[older]
            points[step] = value
    return {tag: sorted(points.items()) for tag, points in found.items() if tag not in NO_CURVES}


def _begun(file: Path) -> tuple[int, int, str]:
    """Order of event files: by the second in their names, as TensorBoard has it, because copies have the times of copying."""
    changed = file.stat().st_mtime_ns
    second = file.name.removeprefix(PATTERN[:-1]).partition(".")[0]
    return (int(second) if second.isdecimal() else changed // 10**9, changed, file.name)


def _scalars(file: Path) -> Iterator[tuple[str, float, float]]:
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise FormatError(
            f"{file} is TensorBoard's, and this run has no metrics.csv: pip install 'unifashion-pl[tensorboard]' to read it"
        ) from error
    try:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                numbers: Any = make_ndarray(value.tensor) if value.HasField("tensor") else None
                if numbers is not None and numbers.size == 1 and numbers.dtype.kind in "fiu":
                    yield value.tag, float(event.step), float(numbers.reshape(()))
    except Exception as error:  # a foreign file raises anything, from struct.error to errors of protobuf
        raise FormatError(
            f"{file} is no event file of TensorBoard's, or a damaged one: {' '.join(str(error).split())}"
        ) from error
