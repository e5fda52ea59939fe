"""What users call, and what a small run writes, is what it was before the rooms were rebuilt (see ``goldens/take.py``)."""

from __future__ import annotations

import importlib
import json
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from goldens import take

#: Share of a small run's numbers that another processor may move by more than a thousandth: ranks and greedy words flip where two are close.
MOVED = 0.03
#: Fields that nothing read and that went: of composed lines, the lists of the best by every score.
DROPPED = ("/tops",)


def gone(old: dict[str, list[str]], new: dict[str, list[str]]) -> list[str]:
    """What was there and is not any more; more may be there."""
    return [f"{room}: {line}" for room, lines in old.items() for line in lines if line not in new.get(room, [])]


def test_public_names_and_their_arguments_are_still_there() -> None:
    lost = []
    for room, lines in take.read(take.HERE, "names").items():
        module = importlib.import_module(f"unifashion_pl.{room}".rstrip("."))
        for line in lines:
            name, _, asked = line.rstrip(")").partition("(")
            try:
                found = attrgetter(name)(module)
            except AttributeError:
                lost.append(f"{room}: {name}")
                continue
            wanted = {*filter(None, asked.split(", "))}
            if wanted and (missing := wanted - {*take.arguments(found)}):
                lost.append(f"{room}: {name}: {', '.join(sorted(missing))}")
    assert lost == []


def test_commands_and_their_options_are_still_there() -> None:
    assert gone(take.options(take.read(take.HERE, "commands")), take.options(take.command_lines())) == []


def test_names_shapes_and_types_in_state_dicts_are_the_same() -> None:
    assert list(take.differences(take.read(take.HERE, "states"), take.state_names(), 0.0)) == []


def test_of_fields_that_older_records_lack_nothing_is_compared_and_of_others_everything() -> None:
    before = [{"value": 1.0, "seed": None}, {"value": 2.0, "seed": 0, "unit": "raw"}, {"value": 3.0}]
    after = [{"value": 1.0, "seed": 7, "draws": [0]}, {"value": 2.0, "seed": 1, "unit": None}, {"value": 4.0, "seed": 7}]
    compared = take.comparable({"test/results.json": before, "a.csv": [[1]]}, {"test/results.json": after, "a.csv": [[2]]})
    found = {line.partition(":")[0] for line in take.differences(*compared, 0.0)}
    record = "/test/results.json"
    assert found == {"/a.csv/0/0", f"{record}/1/seed", f"{record}/1/unit", f"{record}/2/value"}
    lost = take.comparable({"test/results.json": before}, {"test/results.json": after[:2]})
    assert next(iter(take.differences(*lost, 0.0))) == f"{record}: 3 items, now 2"


def leaves(tree: Any) -> int:
    return sum(map(leaves, tree.values() if isinstance(tree, dict) else tree)) if isinstance(tree, dict | list) else 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_run_writes_what_it_wrote(tmp_path: Path) -> None:
    old, new = take.comparable(take.read(take.HERE, "run"), json.loads(json.dumps(take.small_run(tmp_path))))
    lines = take.differences(old, new, 1e-3)
    found = [line for line in lines if not line.endswith(tuple(f"{name}: only in the old" for name in DROPPED))]
    assert [line for line in found if ": only in the " in line or " items, now " in line] == []
    assert len(found) <= MOVED * leaves(old), found[:40]
