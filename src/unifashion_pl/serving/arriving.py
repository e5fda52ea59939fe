"""How long a request may take to arrive, and how many connections may be open: one rule for `serve` and for `demo`."""

from __future__ import annotations

import asyncio

import h11
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from unifashion_pl.serving.errors import Refusal

#: Connections that are open at once: half of the files that a process of Linux may have as a rule.
CONNECTIONS = 512


class Connection(H11Protocol):
    """uvicorn's, which would wait for the rest of a request for ever.

    From the first byte of a request its head has ``seconds`` to arrive, as has the rest of a body that was answered before it was there.
    A connection on which nothing was begun is idle, and is kept as long as uvicorn keeps one after an answer. One too many is closed at once.
    """

    seconds = 10.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def _watch(self) -> None:
        answered = self.cycle is None or self.cycle.response_complete
        if answered and (self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]):
            self._late = self._late or self.loop.call_later(self.seconds, self.transport.abort)
            return
        self._rest()
        if answered:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _rest(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def connections(seconds: float) -> type[Connection]:
    """:class:`Connection` for ``http`` of uvicorn's configuration."""
    return type("Connection", (Connection,), {"seconds": seconds})


def size_of(request: Request, most: int) -> int:
    """Bytes of a body that is to be read; of one that does not say it, ``most``.

    Raises:
        Refusal: ``too_large``, it says more.
    """
    length = request.headers.get("content-length", "")
    size = int(length) if length.isdecimal() else most
    _require_small(size, most)
    return size


async def body_of(request: Request, most: int, seconds: float) -> bytes:
    """All of a request's body, in memory.

    Raises:
        Refusal: ``too_large``, it says or has more bytes than ``most``; ``timeout``, it did not arrive in time.
    """
    size_of(request, most)
    data = bytearray()

    async def read() -> None:
        async for part in request.stream():
            data.extend(part)
            _require_small(len(data), most)

    try:
        await asyncio.wait_for(read(), seconds)
    except asyncio.TimeoutError as error:
        raise Refusal("timeout", f"the body did not arrive in {seconds:g} seconds") from error
    return bytes(data)


def _require_small(size: int, most: int) -> None:
    if size > most:
        raise Refusal("too_large", f"the body has {size:,} bytes or more, allowed are {most:,}")
