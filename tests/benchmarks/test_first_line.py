"""Programs that are timed run, and those that need no model import none; counted, not timed."""

from __future__ import annotations

import subprocess
import sys

import first_line
import pytest

HEAVY = {"torchvision", "lightning", "transformers", "timm", "diffusers", "peft", "torchmetrics"}


def test_a_goal_of_the_program_that_needs_no_model():
    (found,) = first_line.goals("tiny")
    assert found.goal == "doctor <= 3 s"
    assert found.ratio > 0
    assert found.limit.startswith("torch alone")


def test_a_program_that_fails_has_no_time():
    with pytest.raises(subprocess.CalledProcessError):
        first_line.seconds("1 / 0")


def test_doctor_imports_nothing_that_builds_models():
    program = f"{first_line.MAIN.format(['doctor'])}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert loaded & HEAVY == set()
    assert "torch" in loaded
