"""A bounded queue and the one thread that empties it: what waits is answered together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from unifashion_pl.serving.errors import Refusal

#: How much of the time that an answer takes is that of the last batch.
NEWEST = 0.2


class Lane:
    """Requests in the order in which they came.

    While a batch is answered others gather, and are the next one: nobody waits for company.

    Args:
        name: for metrics and messages.
        work: requests -> the answer of each, or an exception in its place; it runs in the lane's own thread.
        waiting: requests that may wait beside those that are being answered, and those on their way into the queue, together.
        together: of a batch, at most.
        seen: is told the size of each batch.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Any]], Sequence[Any]],
        waiting: int,
        together: int,
        seen: Callable[[int], Any] = int,
    ) -> None:
        self.name, self._work, self._waiting, self._together, self._seen = name, work, waiting, together, seen
        self._jobs: deque[tuple[Any, Future[Any]]] = deque()
        self._change = threading.Condition()
        self._closed, self._each, self._coming = False, 0.05, 0
        self._thread = threading.Thread(target=self._run, name=f"lane-{name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._jobs)

    @property
    def taken(self) -> int:
        """Places of the queue that are taken: by requests that wait, and by those that are still being read."""
        return len(self._jobs) + self._coming

    @property
    def seconds(self) -> float:
        """After which those that wait now may be answered."""
        return self._each * (self.taken + 1)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue for a request that is being read; :meth:`put` takes it over if nothing is awaited in between.

        Raises:
            Refusal: the queue is full, or the server ends.
        """
        with self._change:
            self._require_room()
            self._coming += 1
        try:
            yield
        finally:
            with self._change:
                self._coming -= 1

    def _require_room(self) -> None:
        if self._closed:
            raise Refusal("stopping", "the server is about to end", 5)
        if self.taken >= self._waiting:
            raise Refusal("too_many_requests", f"{self.taken} requests wait already, no more are taken", self.seconds)

    def put(self, item: Any) -> Future[Any]:
        """The answer to be.

        Raises:
            Refusal: as :meth:`place`.
        """
        future: Future[Any] = Future()
        with self._change:
            self._require_room()
            self._jobs.append((item, future))
            self._change.notify()
        return future

    def withdraw(self, future: Future[Any]) -> bool:
        """Take a request out of the queue; False where it is being answered, or was."""
        with self._change:
            if not future.cancel():
                return False
            self._jobs = deque(job for job in self._jobs if job[1] is not future)
            return True

    def close(self, seconds: float = 5.0) -> None:
        """Refuse those that wait, let the batch that is being answered end."""
        with self._change:
            self._closed = True
            left, self._jobs = self._jobs, deque()
            self._change.notify()
        for _, future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(Refusal("stopping", "the server ended before the request's turn came", 5))
        self._thread.join(seconds)

    def _run(self) -> None:
        while batch := self._next():
            self._seen(len(batch))
            start = time.monotonic()
            try:
                answers = self._work([item for item, _ in batch])
            except BaseException as error:  # a lane whose thread has ended would answer nobody
                answers = [error] * len(batch)
            took = (time.monotonic() - start) / len(batch)
            self._each += NEWEST * (took - self._each)
            for (_, future), answer in zip(batch, answers, strict=True):
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _next(self) -> list[tuple[Any, Future[Any]]]:
        """What waits, at least one and at most a batch; nothing when the lane is closed."""
        with self._change:
            while True:
                while not self._jobs and not self._closed:
                    self._change.wait()
                taken = [self._jobs.popleft() for _ in range(min(len(self._jobs), self._together))]
                batch = [job for job in taken if job[1].set_running_or_notify_cancel()]
                if batch or self._closed:
                    return batch
