"""Variants side by side: taken in turns, in processor time, and a row of the table of goals for each ratio.

A benchmark that serves a goal of `benchmarks/README.md` has a function ``goals() -> list[Goal]`` which measures anew; ``make bench`` prints the
goals of all of them. The variants of a goal run in one process, in turns, because the machine's speed drifts and other work disturbs; their
equality is asserted before they are timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """One line of the table.

    Attributes:
        goal: what has to be reached, in words ("phase-1 step, equal text length >= 1.35 x the reference form").
        ours, peer: what either took, with a unit ("212 ms"); ``peer`` begins with its name.
        limit: what cannot be beaten (arithmetic, bytes read once), or "".
        ratio: how many times ours is better than the peer.
        wanted: the least ratio that meets the goal; None: printed for information.
        equal: what was found equal in this run, and how nearly ("loss 3e-8, gradients 4e-7").
        command: what prints this line alone.
    """

    goal: str
    ours: str
    peer: str
    ratio: float
    wanted: float | None
    equal: str
    command: str
    limit: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.wanted is None else self.ratio >= self.wanted


def in_turns(variants: Mapping[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of this process's processor time that a call of each variant takes; a first round warms up and is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, call in variants.items():
            start = time.process_time()
            call()
            if turn:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}
