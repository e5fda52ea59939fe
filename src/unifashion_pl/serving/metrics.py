"""What Prometheus reads: requests by address and status, seconds, batches, what waits, the index, and the process."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
KIND = CONTENT_TYPE_LATEST


class Metrics:
    """The measurements of one server.

    Attributes:
        requests: by ``endpoint`` and ``status``. seconds: of answers, by ``endpoint``. batches: sizes, by ``lane``.
        reloads: by ``outcome``, which is ``done`` or ``failed``.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "unifashion_requests", "Requests that were answered or refused", ["endpoint", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "unifashion_request_seconds",
            "From the first byte to the last",
            ["endpoint"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "unifashion_batch_size", "Requests that were answered together", ["lane"], buckets=SIZES, registry=self.registry
        )
        self.reloads = Counter("unifashion_reloads", "Indexes that were opened anew", ["outcome"], registry=self.registry)
        ProcessCollector(registry=self.registry)

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """A number that is asked for when it is read."""
        Gauge(f"unifashion_{name}", meaning, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of it, in Prometheus' form."""
        return generate_latest(self.registry)
