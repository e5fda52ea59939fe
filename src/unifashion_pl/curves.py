"""Learning curves that outlive an interruption: ``metrics.csv`` goes on where a resumed run does, and is replaced only by a new run's rows."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from unifashion_pl.files import write_text, writing


class CurvesWriter(ExperimentWriter):
    """What a CSVLogger writes with. Lightning's own deletes the older file when the run is set up, resumed or not.

    Rows of an older file stay until this run has rows of its own; :meth:`keep` makes them the beginning of its curves. Rows are
    appended; whenever more than that changes, the file is replaced whole.

    Attributes:
        rows: how many of this run the file holds.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.rows = 0
        self._begun = False

    def _check_log_dir_exists(self) -> None:
        """Nothing is deleted."""

    def keep(self, count: int | None, step: int) -> None:
        """Go on from the rows of the file; later ones go, because their steps are done again.

        Args:
            count: how many there were when the checkpoint was written; None = unknown: those of steps before ``step``.
        """
        rows = self._read()
        kept = rows[:count] if count is not None else [row for row in rows if int(row.get("step") or 0) < step]
        if kept:
            self._replace(kept)

    def save(self) -> None:
        """Write the rows that are new."""
        if not self.metrics:
            return
        new, self.metrics = self.metrics, []
        if not self._begun or {name for row in new for name in row} - set(self.metrics_keys):
            self._replace([*(self._read() if self._begun else ()), *new])
            return
        path = Path(self.metrics_file_path)
        with writing(path), open(path, "a", newline="", encoding="utf-8") as file:
            file.write(_csv(new, self.metrics_keys, header=False))
        self.rows += len(new)

    def _read(self) -> list[dict[str, Any]]:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return []
        with open(path, newline="", encoding="utf-8") as file:
            return [{name: value for name, value in row.items() if name} for row in csv.DictReader(file)]

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        self.metrics_keys = sorted({name for row in rows for name in row})
        write_text(self.metrics_file_path, _csv(rows, self.metrics_keys, header=True))
        self.rows, self._begun = len(rows), True


def _csv(rows: list[dict[str, Any]], names: list[str], *, header: bool) -> str:
    text = StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=names)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def take_over(trainer: L.Trainer) -> None:
    """Let every CSVLogger of a trainer that writes to a disk, and has not begun, write with a :class:`CurvesWriter`."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, CSVLogger) and logger._experiment is None and "://" not in str(logger.save_dir):
            logger._experiment = CurvesWriter(logger.log_dir)


def writers(trainer: L.Trainer) -> list[CurvesWriter]:
    """Those of this process, in the order of their loggers."""
    held = (getattr(logger, "_experiment", None) for logger in trainer.loggers)
    return [writer for writer in held if isinstance(writer, CurvesWriter)]
