"""metrics.csv: kept by a resume, replaced by a new run's rows only when there are some."""

from __future__ import annotations

import csv
from pathlib import Path

from unifashion_pl.curves import CurvesWriter


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def run(folder: Path, steps: range, *, rows_kept: int | None = None, resumed: bool = False, **more: float) -> CurvesWriter:
    writer = CurvesWriter(str(folder))
    if resumed:
        writer.keep(rows_kept, steps.start)
    for step in steps:
        writer.log_metrics({"loss": step / 10, **more}, step)
        writer.save()
    return writer


def test_a_resume_goes_on_after_the_rows_of_its_checkpoint(tmp_path: Path) -> None:
    assert run(tmp_path, range(6)).rows == 6
    run(tmp_path, range(4, 8), rows_kept=4, resumed=True)
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(8))
    run(tmp_path, range(3, 5), resumed=True)  # an older checkpoint that does not say how many rows there were
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(5))


def test_new_columns_keep_the_rows(tmp_path: Path) -> None:
    run(tmp_path, range(2))
    run(tmp_path, range(2, 4), rows_kept=2, resumed=True, accuracy=1.0)
    assert [row["accuracy"] for row in rows(tmp_path)] == ["", "", "1.0", "1.0"]


def test_a_new_run_begins_anew_and_not_before_it_has_a_row(tmp_path: Path) -> None:
    run(tmp_path, range(3))
    run(tmp_path, range(0))
    assert len(rows(tmp_path)) == 3
    run(tmp_path, range(1))
    assert len(rows(tmp_path)) == 1
