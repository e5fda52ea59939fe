"""The bounded queue: batches, fullness, withdrawal, the end."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from unifashion_pl.serving.errors import Refusal
from unifashion_pl.serving.lane import Lane


class Slow:
    """Work that waits until it is let go, and remembers its batches."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.batches: list[list[Any]] = []

    def __call__(self, batch: list[Any]) -> list[Any]:
        self.batches.append(batch)
        self.begun.set()
        assert self.go.wait(10)
        return [ValueError(item) if item == "bad" else f"{item}!" for item in batch]


@pytest.fixture
def slow() -> Slow:
    return Slow()


def begin(slow: Slow, waiting: int = 3, together: int = 2) -> tuple[Lane, Any]:
    lane = Lane("test", slow, waiting, together)
    first = lane.put("first")
    assert slow.begun.wait(5)
    return lane, first


def test_what_waits_is_answered_together_in_order_and_not_more_than_a_batch(slow: Slow) -> None:
    lane, first = begin(slow)
    others = [lane.put(item) for item in "abc"]
    assert len(lane) == 3
    slow.go.set()
    assert [future.result(5) for future in (first, *others)] == ["first!", "a!", "b!", "c!"]
    assert slow.batches == [["first"], ["a", "b"], ["c"]]
    lane.close()


def test_a_full_queue_refuses_with_seconds_and_takes_more_when_it_has_room(slow: Slow) -> None:
    lane, _ = begin(slow)
    futures = [lane.put(item) for item in "abc"]
    with pytest.raises(Refusal) as refused:
        lane.put("d")
    assert (refused.value.status, refused.value.code) == (429, "too_many_requests")
    assert refused.value.retry_after is not None
    slow.go.set()
    assert [future.result(5) for future in futures] == ["a!", "b!", "c!"]
    assert lane.put("d").result(5) == "d!"
    lane.close()


def test_requests_that_are_being_read_take_places_of_the_queue(slow: Slow) -> None:
    lane, _ = begin(slow, waiting=2)
    with lane.place():
        with lane.place(), pytest.raises(Refusal, match="2 requests wait already"):
            lane.put("a")
        futures = [lane.put("a")]
        with pytest.raises(Refusal), lane.place():
            raise AssertionError("there was no place")
        assert lane.taken == 2
    futures.append(lane.put("b"))  # in the place that was left
    slow.go.set()
    assert [future.result(5) for future in futures] == ["a!", "b!"]
    assert lane.taken == 0
    lane.close()


def test_an_answer_that_is_an_error_is_raised_for_its_own_request_alone(slow: Slow) -> None:
    lane, _ = begin(slow)
    bad, good = lane.put("bad"), lane.put("good")
    slow.go.set()
    with pytest.raises(ValueError, match="bad"):
        bad.result(5)
    assert good.result(5) == "good!"
    lane.close()


def test_work_that_raises_anything_fails_its_batch_and_the_lane_goes_on() -> None:
    calls = []

    def work(batch: list[Any]) -> list[Any]:
        calls.append(batch)
        if len(calls) == 1:
            raise SystemExit(3)
        return batch

    lane = Lane("test", work, 4, 4)
    with pytest.raises(SystemExit):
        lane.put("a").result(5)
    assert lane.put("b").result(5) == "b"
    lane.close()


def test_a_request_is_withdrawn_while_it_waits_and_not_once_it_is_being_answered(slow: Slow) -> None:
    lane, first = begin(slow)
    waiting = lane.put("a")
    assert lane.withdraw(waiting)
    assert len(lane) == 0
    assert not lane.withdraw(first)
    slow.go.set()
    assert first.result(5) == "first!"
    time.sleep(0.05)
    assert slow.batches == [["first"]]
    lane.close()


def test_the_end_refuses_what_waits_and_lets_the_batch_end(slow: Slow) -> None:
    lane, first = begin(slow)
    waiting = lane.put("a")
    closing = threading.Thread(target=lane.close)
    closing.start()
    with pytest.raises(Refusal) as refused:
        waiting.result(5)
    assert (refused.value.code, refused.value.status) == ("stopping", 503)
    with pytest.raises(Refusal):
        lane.put("b")
    slow.go.set()
    assert first.result(5) == "first!"
    closing.join(5)
    assert not closing.is_alive()
    assert not lane._thread.is_alive()


def test_sizes_of_batches_are_told(slow: Slow) -> None:
    sizes: list[int] = []
    lane = Lane("test", slow, 8, 3, sizes.append)
    futures = [lane.put("first")]
    assert slow.begun.wait(5)
    futures += [lane.put(i) for i in range(4)]
    slow.go.set()
    assert [future.result(5) for future in futures][-1] == "3!"
    assert sizes == [1, 3, 1]
    assert lane.seconds > 0
    lane.close()
