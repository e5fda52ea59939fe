"""The benchmark of cached features in small: it runs, what it compares is equal, and its counts are those of the sizes."""

from __future__ import annotations

import features
import pytest


def test_an_epoch_with_its_validation_is_counted_and_timed() -> None:
    counted, exact, half = [goal for only in ("flops", "time") for goal in features.goals("tiny", only)]
    assert counted.ratio > 1
    assert counted.wanted is None
    assert "recalls the same" in exact.equal
    assert min(exact.ratio, half.ratio) > 0


def test_conditions_of_persons_are_equal_and_timed() -> None:
    alone, whole = features.goals("tiny", only="persons")
    assert "latents drawn" in alone.equal
    assert min(alone.ratio, whole.ratio) > 0


@pytest.mark.slow
def test_the_goal_is_of_the_paper_s_size() -> None:
    """FLOPs of the same modules, without memory: the tower's 39 blocks, and the goal of 8."""
    (goal,) = features.goals(only="flops")
    assert goal.wanted == 8
    assert float(goal.peer.split()[1]) == pytest.approx(30, abs=2)  # PFLOP: 51,536 images of 506 GFLOP, and the Q-Former
