"""`make demo`, with a stand-in for the program: its stages, its clock, and how it ends."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Without what a `make test` around this tells the makes inside of it, which then say where they are.
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_demo_names_its_stages_with_a_clock_and_ends_with_the_page_and_the_offer(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "called $*"\n')
    program.chmod(0o755)
    out = tmp_path / "out"
    command = ["make", "--old-file=setup", "demo", f"OUT={out}", f"UNIFASHION={program}"]
    done = subprocess.run(command, cwd=ROOT, env=OUTSIDE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    stages = [line for line in lines if line.startswith("== ")]
    assert [re.match(r"== (\d of 5|done)", stage)[1] for stage in stages] == [*(f"{i} of 5" for i in range(1, 6)), "done"]  # type: ignore[index]
    assert all(re.search(r", after \d+ s$", stage) for stage in stages)
    called = [line.split()[1] for line in lines if line.startswith("called")]
    assert called == ["fit", "fit", "test", "test", "report"], "the page is offered on a terminal alone"
    assert lines[-2:] == [f"Look at it: {out}/report.html", f"Try the model in a browser: cd {out} && {program} demo"]
    assert [*out.iterdir()] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_stage_that_fails_ends_it(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "called $*"\n[ "$1" = fit ]\n')
    program.chmod(0o755)
    command = ["make", "--old-file=setup", "demo", f"OUT={tmp_path / 'out'}", f"UNIFASHION={program}"]
    done = subprocess.run(command, cwd=ROOT, env=OUTSIDE, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stdout.count("called") == 3
    assert "Look at it" not in done.stdout
