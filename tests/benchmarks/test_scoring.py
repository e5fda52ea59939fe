"""The benchmark of scoring at a size of seconds: what it says is equal is asserted in it."""

from __future__ import annotations

import scoring


def test_both_goals_are_measured():
    first, second = scoring.goals("tiny")
    assert "20 of 20 positions the same" in first.equal
    assert second.ratio > 0
    assert (first.wanted, second.wanted) == (25.0, 1.0)
