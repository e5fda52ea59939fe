"""Results: run folders, as ``report`` reads them, and lists of candidates."""

from __future__ import annotations

import shutil
from pathlib import Path

from fuzz.annotations import changing
from fuzz.engine import Target
from fuzz.mutate import damaged_json, damaged_lines, damaged_text
from report.fake_run import make_run

from unifashion_pl.metrics.candidates import CandidateLists, Trial
from unifashion_pl.report import build_report

CSV = ('"', ",", ",,,", "\n", "nan", "inf", "-1e999", "x", "\x00", "step", "1e5", ";", "\t")
YAML = (
    "  ",
    ":",
    "- ",
    "{",
    "[",
    "&a ",
    "*a",
    "!!python/object/apply:os.system [true]",
    "model:",
    "\t",
    "\x00",
    "'",
    "1",
    "null",
)


def make(folder: Path) -> None:
    """Two phases with curves, records, predictions and pictures."""
    made = make_run(folder / "run")
    for path in made.glob("*/*/test/images/*"):  # a few are enough
        if "p00" not in path.name and "gen" not in path.name:
            path.unlink()


def use(folder: Path) -> str:
    """The page; it lies elsewhere."""
    out = folder.with_name(folder.name + "-out")
    try:
        return build_report([folder / "run"], out / "report.html").read_text(encoding="utf-8")
    finally:
        shutil.rmtree(out, ignore_errors=True)


def make_candidates(folder: Path) -> None:
    """Two trials."""
    trials = [Trial(0, "i2t", ("r0",), ("p0", "p1", "p2"), 1), Trial(0, "t2i", ("r0", "r1", "r2"), ("p0",))]
    CandidateLists("fashiongen_100", 0, 1, "fill", trials, 0).save(folder / "candidates.json")


def use_candidates(folder: Path) -> object:
    """As an evaluation reads them."""
    return repr(CandidateLists.load(folder / "candidates.json"))


FILES = {
    "**/config.yaml": lambda data: damaged_text(data, YAML),
    "**/metrics.csv": lambda data: damaged_text(data, CSV),
    "**/results.json": damaged_json,
    "**/*.jsonl": damaged_lines,
}
TARGETS = (
    Target("run-folder", 1500, make, changing(FILES), use),
    Target("candidates", 300, make_candidates, changing({"*.json": damaged_json}), use_candidates),
)
