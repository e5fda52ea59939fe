"""Goals of painting: what a row says is what was painted. Nothing is asserted of times."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import generation
import painting
import pytest
import torch
from sidebyside import Goal


@pytest.fixture(autouse=True)
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are made up, in the order in which the variants stand: nothing is painted for them again."""
    monkeypatch.setattr(painting, "in_turns", lambda works, rounds: dict.fromkeys(works, 1.0))


def apart(goal: Goal) -> int:
    found = re.search(r"max (\d+)", goal.equal)
    assert found is not None
    return int(found[1])


def test_a_closed_gate_is_counted_at_the_paper_s_size_and_painted_with_the_shipped_model() -> None:
    flops = generation.counted(generation.PAPER, (512, 384))
    counted, timed = painting.closed_gate(flops["evaluation"] / 1e9, flops["evaluation without a garment"] / 1e9, 1)
    assert (counted.ours, counted.peer) == ("13.6 TFLOP", "gate times 0 21.5 TFLOP")
    assert counted.met
    assert apart(counted) == apart(timed) <= 1
    assert timed.wanted is None


def test_pictures_of_another_garment_are_told_apart() -> None:
    made = painting.paint([0, 1], 2, 4, sampler="fast", steps=2)
    assert painting.furthest(made, made) == "max 0, mean 0.0000 of 255"
    assert int(painting.furthest(made[:1], made[1:]).split()[1].rstrip(",")) > 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measure", "most"),
    [(painting.batches, [1]), (painting.against_diffusers, [1, 255, 1]), (painting.merged_captions, None)],
)
def test_other_goals(measure: Callable[..., list[Goal]], most: Any) -> None:
    made = measure(1)
    if most is None:
        assert [goal.equal for goal in made] == ["the same captions"]
    else:
        assert [apart(goal) <= limit for goal, limit in zip(made, most)] == [True] * len(most)
    assert not torch.is_inference_mode_enabled()


def test_flops_of_a_picture_at_the_paper_s_size(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["generation.py", "--scale", "paper", "--count"])
    assert generation.main() == 0
    said = capsys.readouterr().out
    assert re.search(r"evaluation +1075\.5 GFLOP", said)
    assert re.search(r"a picture by fast +20 evaluations, +25\.\d+ TFLOP", said)
