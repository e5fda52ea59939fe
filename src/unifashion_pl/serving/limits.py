"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

MEGABYTE = 1 << 20
#: Bodies of the largest size that are held at once; smaller ones are more.
BODIES = 16
#: Pictures that are decoded at once: the largest that is read takes half a gigabyte then.
DECODERS = 2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What waits, how long, and how large it may be."""

    queue: Annotated[
        int, {"metavar": "N", "help": "requests that may wait for an answer; further ones get 429 with Retry-After"}
    ] = 64
    batch: Annotated[int, {"metavar": "N", "help": "requests that are answered together, of those that wait"}] = 32
    wait: Annotated[
        float,
        {
            "metavar": "SECONDS",
            "help": "a request that waits longer, or whose body takes longer to arrive, is refused with 503 or 408; its head has as long",
        },
    ] = 10.0
    max_body: Annotated[int, {"metavar": "MB", "help": f"of one request; {BODIES} times as much is held at once"}] = 16

    def __post_init__(self) -> None:
        from unifashion_pl.arguments import ArgumentError, count, number  # brings numpy, which a help does without

        for name in ("queue", "batch", "max_body"):
            count(getattr(self, name), name)
        if number(self.wait, "wait") <= 0:
            raise ArgumentError(f"wait is {self.wait}, expected seconds above 0")

    @property
    def body_bytes(self) -> int:
        """Of one request."""
        return self.max_body * MEGABYTE

    @property
    def held_bytes(self) -> int:
        """Of all bodies that are there at once."""
        return BODIES * self.body_bytes
