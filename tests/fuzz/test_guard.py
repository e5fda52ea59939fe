"""The fuzzer notices what it is there to notice."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fuzz.guard as guard
import numpy as np
import pytest
from fuzz.engine import Place, Target, again, attempt, fuzz, keep
from fuzz.mutate import OUTSIDE, damaged_json
from hypothesis import strategies as st


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path.resolve())


def make(folder: Path) -> None:
    (folder / "a.json").write_text('{"a": 1}')


def target(use: Callable[[Path], Any], **options: Any) -> Target:
    return Target("t", 1, make, lambda folder: st.just({"a.json": b"{}"}), use, **options)


def outcome(place: Place, use: Callable[[Path], Any], **options: Any) -> str:
    tried = target(use, **options)
    return attempt(tried, place, place.copy(tried), {"a.json": b""})[0]


def _swallowing(call: Callable[[], Any]) -> Callable[[Path], None]:
    def use(folder: Path) -> None:
        with suppress(BaseException):
            call()

    return use


CALLS: dict[str, Callable[[], Any]] = {
    "os.system": lambda: os.system("true"),
    "subprocess.Popen": lambda: subprocess.run(["true"], check=False),
    "os.posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "socket.getaddrinfo": lambda: socket.create_connection(("127.0.0.1", 9), 1),
    "socket.connect": lambda: socket.socket().connect(("127.0.0.1", 9)),
    f"import of {guard.CANARY}": lambda: __import__(guard.CANARY),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("swallowed", [False, True])
def test_calls_are_noticed_and_do_not_happen(place: Place, name: str, swallowed: bool) -> None:
    use = _swallowing(CALLS[name]) if swallowed else lambda folder: CALLS[name]()
    assert name in outcome(place, use)
    assert guard.CANARY not in sys.modules


def test_the_hook_sleeps_outside_of_a_guarded_block(place: Place) -> None:
    assert outcome(place, lambda folder: None) == "accepted"
    assert subprocess.run(["true"], check=False).returncode == 0


def test_files_outside_are_noticed(place: Place) -> None:
    assert "open of" in outcome(place, lambda folder: (folder / "../outside/secret.txt").read_text())
    # a library in C that opens files itself is caught by what comes out
    assert "is in what came out" in outcome(place, lambda folder: b"x" + guard.SECRET)


def test_hangs_and_greed_are_noticed(place: Place) -> None:
    def endless(folder: Path) -> None:
        while True:
            pass

    with pytest.raises(guard.TooSlow), guard.guarded(place.outside, seconds=0.2):
        endless(place.base)
    assert "MemoryError" in outcome(place, lambda folder: np.ones(1 << 33, np.uint8))


def test_errors_have_to_be_documented_and_to_name_the_file(place: Place) -> None:
    def refuse(text: str, kind: type[Exception] = ValueError) -> Callable[[Path], None]:
        def use(folder: Path) -> None:
            raise kind(text)

        return use

    assert outcome(place, refuse("a.json has no b")) == "refused"
    assert outcome(place, refuse("no b")).startswith("no file named: ValueError")
    assert outcome(place, refuse("no b"), named=False) == "refused"
    assert outcome(place, refuse("a.json", KeyError)).startswith("KeyError in test_guard.py:use")


def test_a_failing_input_is_kept_and_fails_again(place: Place, tmp_path: Path) -> None:
    def use(folder: Path) -> None:
        if (content := json.loads((folder / "a.json").read_text())) != {"a": 1}:
            raise KeyError(f"{content}")

    failing = target(use)
    tally = fuzz(failing, place, 5)
    assert tally.failed == tally.inputs == 1  # there is one change, which is not tried twice
    (folder,) = keep(tally, failing, place, tmp_path / "kept")
    assert (folder / "input/a.json").read_bytes() == b"{}"
    assert again(failing, place, folder)[0] == next(iter(tally.failures))


def test_hostile_names_of_files_become_the_folder_outside(place: Place) -> None:
    tried = target(lambda folder: None)
    folder = place.copy(tried)
    place.apply({"a.json": f'"{OUTSIDE}/secret.txt"'.encode(), "b": None}, folder)
    assert Path(json.loads((folder / "a.json").read_text())).read_bytes().startswith(guard.SECRET)
    place.restore({"a.json": b""}, folder, place.valid(tried))
    assert json.loads((folder / "a.json").read_text()) == {"a": 1}


def test_damaged_json_differs_from_its_seed() -> None:
    seen: list[bytes] = []
    from hypothesis import given, seed, settings

    @seed(0)
    @settings(max_examples=50, database=None, deadline=None)
    @given(damaged_json(b'{"a": [1, 2], "b": {"c": "d"}}'))
    def collect(data: bytes) -> None:
        seen.append(data)

    collect()
    assert len(set(seen)) > 30
