"""Rows keyed by id, and the processes that share them; several processes: ``metrics/test_metrics_tables.py``."""

from __future__ import annotations

import pytest
import torch

from unifashion_pl.team import Rows, Team, averaged, merge, merged, united


def test_rows_are_taken_by_facts_and_sorted_by_id() -> None:
    rows = Rows(["c", "a", "b"], {"kind": ["x", "y", "x"], "n": [3, 1, 2]}, {"v": torch.tensor([3.0, 1.0, 2.0])})
    assert (rows.ordered().ids, rows.ordered().facts["n"]) == (["a", "b", "c"], [1, 2, 3])
    assert rows.ordered().tensors["v"].tolist() == [1.0, 2.0, 3.0]
    chosen = rows.where(kind="x")
    assert (chosen.ids, chosen.facts["n"], chosen.tensors["v"].tolist()) == (["c", "b"], [3, 2], [3.0, 2.0])
    assert rows.where(kind="x", n=2).ids == ["b"]
    assert not len(rows.where(kind="z"))
    assert not len(Rows().where(kind="x"))


def test_an_id_that_comes_twice_counts_once_and_has_to_say_the_same() -> None:
    first, again = Rows(["a", "b"], {"n": [1, 2]}, {"v": torch.ones(2)}), Rows(["b", "c"], {"n": [2, 3]}, {"v": torch.zeros(2)})
    both = merge([Rows(), first, again])
    assert (both.ids, both.facts, both.tensors["v"].tolist()) == (["a", "b", "c"], {"n": [1, 2, 3]}, [1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="id 'b' was given twice with different n: 2 and 5"):
        merge([first, Rows(["b"], {"n": [5]}, {"v": torch.ones(1)})])
    with pytest.raises(ValueError, match="n has 1 rows, but there are 2 ids"):
        Rows(["a", "b"], {"n": [1]})


def test_one_process_is_a_team_of_its_own() -> None:
    team, rows = Team(False), Rows(["b", "a"], {"n": [2, 1]})
    assert (team.rank, team.size) == (0, 1)
    assert team.rows(team.own(rows)).facts == team.facts(team.own(rows)).facts == {"n": [1, 2]}
    assert merged(team, ["b", "a"], str) == ["a", "b"]
    assert united(team, {"a": 1}) == {"a": 1}
    assert averaged(team, {"a": 1.5}) == {"a": 1.5}
    with pytest.raises(ValueError, match="wrong"):
        team.guarded(lambda: int("wrong"))
