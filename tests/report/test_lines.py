"""Ranks of prediction files: from 1, one meaning; older lines are read as what they were."""

from __future__ import annotations

import pytest

from unifashion_pl.report.lines import SCHEMA, current, marked, place


def test_todays_lines_stay_as_they_are() -> None:
    (line,) = marked([{"rank": 3, "ties": 1, "ranks": {"a": [3, 1]}}])
    assert line["schema"] == SCHEMA
    assert current(line) == line
    assert place(line) == 4


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"protocol": "fashiongen_full", "rank": 4, "ties": 2}, {"protocol": "fashiongen_full", "rank": 5, "ties": 2}),
        ({"direction": "t2i", "rank": 6, "ties": 2}, {"direction": "t2i", "rank": 5, "ties": 2}),
        (
            {"rank": 6, "ties": 1, "ranks": {"x": [5, 1]}, "halves": {"text-only": [0, 0]}},
            {"rank": 6, "ties": 1, "ranks": {"x": [6, 1]}, "halves": {"text-only": [1, 0]}},
        ),
        (
            {"rank": 0, "ties": 0, "rewritten_rank": 3, "rewritten_ties": 1},
            {"rank": 1, "ties": 0, "rewritten_rank": 3, "rewritten_ties": 1},
        ),
        ({"id": "a caption"}, {"id": "a caption"}),
    ],
)
def test_older_lines_counted_from_0_some_with_their_ties(old: dict[str, object], new: dict[str, object]) -> None:
    assert current(old) == {**new, "schema": SCHEMA}


def test_rounds_of_older_dialogues() -> None:
    (one,) = current({"rounds": [{"reference": "r", "rank": 2, "ties": 2}]})["rounds"]
    assert (one["rank"], one["ties"]) == (1, 2)


def test_lines_of_a_later_version_are_refused() -> None:
    with pytest.raises(ValueError, match="schema 9"):
        current({"schema": 9, "rank": 1})
