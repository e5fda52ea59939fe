"""Drawing by hash, and levels of chance."""

from __future__ import annotations

import pytest

from unifashion_pl.evaluation.sampling import Drawing, chance_recall, order
from unifashion_pl.team import team_of_all


def test_chance_recall_by_counting() -> None:
    assert chance_recall(5, 2, 2) == pytest.approx(70.0)
    assert chance_recall(3, 1, 10) == 100.0


def test_a_drawing_keeps_the_smallest_hashes_in_any_order() -> None:
    names = [f"p{i}" for i in range(40)]
    expected = sorted(names, key=lambda n: order(0, n))[:5]
    for stream in (names, names[::-1]):
        drawing: Drawing[str] = Drawing(5)
        for name in stream:
            drawing.offer(name, "b", lambda: "late")
            drawing.offer(name, "a", lambda: "early")
        assert list(drawing.everywhere(team_of_all())) == expected
        assert set(drawing.own(team_of_all()).values()) == {("a", "early")}


def test_nothing_is_made_of_what_is_not_kept() -> None:
    names = sorted((f"p{i}" for i in range(9)), key=lambda n: order(0, n))
    made: list[str] = []

    def prepared(name: str) -> str:
        made.append(name)
        return name

    drawing: Drawing[str] = Drawing(3)
    for name in names:
        drawing.offer(name, "a", lambda name=name: prepared(name))  # type: ignore[misc]
        drawing.offer(name, "b", lambda name=name: prepared(name))  # type: ignore[misc]
    assert made == names[:3]
    none: Drawing[str] = Drawing(0)
    none.offer("p0", "a", lambda: prepared("p0"))
    assert list(none.everywhere(team_of_all())) == []
    assert made == names[:3]
