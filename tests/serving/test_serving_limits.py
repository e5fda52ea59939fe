"""How much a server takes on."""

from __future__ import annotations

from typing import Any

import pytest

from unifashion_pl.serving.limits import BODIES, Limits


def test_bodies_are_counted_in_bytes() -> None:
    limits = Limits(max_body=2)
    assert (limits.body_bytes, limits.held_bytes) == (2 << 20, BODIES * (2 << 20))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"queue": 0}, "queue is 0"), ({"batch": -1}, "batch is -1"), ({"max_body": 0}, "max_body is 0"), ({"wait": 0.0}, "wait is 0"),
     ({"wait": float("nan")}, "wait is nan")],
)  # fmt: skip
def test_limits_under_which_nothing_could_be_answered_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Limits(**wrong)
