"""A small slice of ``make fuzz``: the same inputs at every run, a few of every target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fuzz.engine import Place, Target, fuzz, keep
from fuzz.targets import TARGETS

#: Of the inputs of ``make fuzz``.
SHARE = 1 / 60


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Place(tmp_path_factory.mktemp("fuzz").resolve())
    torch.set_num_threads(threads)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_input_is_used_or_refused_with_a_sentence(target: Target, place: Place, tmp_path: Path) -> None:
    tally = fuzz(target, place, round(target.inputs * SHARE))
    assert tally.inputs
    kept = keep(tally, target, place, tmp_path)
    assert not tally.failures, "\n".join((folder / "what.txt").read_text() for folder in kept)


def test_every_target_both_refuses_and_accepts(place: Place) -> None:
    """A target that takes everything, or nothing but its valid input, would test nothing."""
    catalogue = next(target for target in TARGETS if target.name == "catalogue")
    tally = fuzz(catalogue, place, 60)
    assert tally.refused
    assert tally.accepted


def test_the_same_seed_gives_the_same_inputs(place: Place) -> None:
    seen: list[list[bytes]] = []
    target = next(target for target in TARGETS if target.name == "captions")
    for start in (1, 1, 2):
        inputs: list[bytes] = []

        def use(folder: Path, inputs: list[bytes] = inputs) -> None:
            inputs.append((folder / "captions.jsonl").read_bytes() if (folder / "captions.jsonl").is_file() else b"-")

        fuzz(Target("captions", 1, target.make, target.changes, use), place, 20, start)
        seen.append(inputs)
    assert seen[0] == seen[1] != seen[2]


def test_make_fuzz_tries_ten_thousand_inputs() -> None:
    assert sum(target.inputs for target in TARGETS) >= 10_000
