"""What the table of goals says of a measurement, and how variants take turns."""

from __future__ import annotations

import time

from sidebyside import Goal, in_turns


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_variants_take_turns_and_waiting_does_not_count() -> None:
    order: list[str] = []
    taken = in_turns(
        {"work": lambda: (order.append("work"), burn(0.02)), "wait": lambda: (order.append("wait"), time.sleep(0.02))}, 2
    )
    assert order == ["work", "wait"] * 3
    assert taken["work"] >= 0.02 > taken["wait"]


def test_a_goal_is_met_by_its_ratio() -> None:
    def goal(wanted: float | None) -> Goal:
        return Goal("step", "1 s", "peer 2 s", 2.0, wanted, "", "python benchmarks/step.py")

    assert goal(2.0).met
    assert goal(2.1).met is False
    assert goal(None).met is None
