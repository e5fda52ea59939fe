"""Connections over real sockets: those that dawdle are ended, those that rest are kept, and there is an end to their number."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from unifashion_pl.listening import listen
from unifashion_pl.serving import arriving
from unifashion_pl.serving.errors import Refusal

#: Seconds that a head may take here, and that a connection may rest.
HEAD, IDLE = 0.5, 2
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body of a POST, of nothing else."""
    request = Request(scope, receive)
    body = await request.body() if scope["method"] == "POST" else b""
    response: Response = PlainTextResponse(f"{len(body)} bytes")
    await response(scope, receive, send)


@contextmanager
def server(**options: Any) -> Iterator[tuple[str, int]]:
    """Its address."""
    place = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        application, http=arriving.connections(HEAD), lifespan="off", log_config=None, timeout_keep_alive=IDLE, **options
    )
    made = uvicorn.Server(config)
    thread = threading.Thread(target=made.run, args=([place],), daemon=True)
    thread.start()
    try:
        yield place.getsockname()
    finally:
        made.should_exit = True
        thread.join(10)
        place.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with server() as found:
        yield found


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=10) as found:
        yield found


def answer(client: socket.socket) -> bytes:
    """What comes, up to the end of the body of :func:`application`; b"" where the connection is ended."""
    data = b""
    while not data.endswith(b" bytes"):
        try:
            more = client.recv(4096)
        except ConnectionResetError:
            return b""
        if not more:
            return b""
        data += more
    return data


def dawdle(client: socket.socket, data: bytes, every: float = 0.05) -> float:
    """Sends a byte at a time until the server ends it: seconds that this took."""
    since = time.monotonic()
    for place in range(len(data)):
        try:
            client.sendall(data[place : place + 1])
        except (BrokenPipeError, ConnectionError):
            return time.monotonic() - since
        time.sleep(every)
    raise AssertionError("nobody ended it")


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(client: socket.socket, address: tuple[str, int]) -> None:
    taken: list[float] = []
    slow = threading.Thread(target=lambda: taken.append(dawdle(client, GET + bytes(100))))
    slow.start()
    with socket.create_connection(address, timeout=10) as other:
        other.sendall(GET)
        assert answer(other).startswith(b"HTTP/1.1 200")
    slow.join(10)
    assert HEAD <= taken[0] < IDLE


def test_a_connection_rests_longer_than_a_head_may_take_and_its_next_head_has_the_same_time(client: socket.socket) -> None:
    for _ in range(2):
        time.sleep(2 * HEAD)
        client.sendall(GET[:9])
        time.sleep(HEAD / 4)
        client.sendall(GET[9:])
        assert answer(client).startswith(b"HTTP/1.1 200")
    assert HEAD <= dawdle(client, GET + bytes(100)) < IDLE


def test_a_slow_body_is_a_matter_of_who_reads_it(client: socket.socket) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n")
    for _ in range(4):
        time.sleep(HEAD / 2)
        client.sendall(b"x")
    assert answer(client).endswith(b"4 bytes")


def test_what_is_left_of_a_body_that_nobody_read_has_as_long_and_leaves_a_connection_that_rests(client: socket.socket) -> None:
    head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n"
    client.sendall(head)
    assert answer(client).endswith(b"0 bytes")
    client.sendall(bytes(20))
    client.sendall(bytes(30))
    time.sleep(2 * HEAD)
    client.sendall(head)
    assert answer(client).endswith(b"0 bytes")
    assert HEAD <= dawdle(client, bytes(50)) < IDLE


@pytest.mark.parametrize("sent", [b"", GET, b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n"])
def test_a_connection_that_rests_too_long_is_ended(client: socket.socket, sent: bytes) -> None:
    if sent:
        client.sendall(sent)
        assert answer(client)
    if sent.startswith(b"PUT"):
        client.sendall(b"x")
    since = time.monotonic()
    assert client.recv(1) == b""
    assert IDLE - 0.1 <= time.monotonic() - since < IDLE + 1


def test_requests_that_come_together_are_all_answered(client: socket.socket) -> None:
    client.sendall(GET + GET + GET[:9])
    data = b""
    while data.count(b"0 bytes") < 2:
        data += client.recv(4096)
    client.sendall(GET[9:])
    assert answer(client).endswith(b"0 bytes")


def test_one_connection_too_many_is_closed_and_there_is_room_when_another_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "CONNECTIONS", 2)
    with server() as address:
        held = [socket.create_connection(address, timeout=10) for _ in range(2)]
        for one in held:
            one.sendall(GET)
            assert answer(one)
        with socket.create_connection(address, timeout=10) as third:
            assert answer(third) == b""
        for one in held:
            one.close()
        end = time.monotonic() + 10
        while True:
            with socket.create_connection(address, timeout=10) as again, suppress(ConnectionError):
                again.sendall(GET)
                if answer(again):
                    break
            assert time.monotonic() < end
            time.sleep(0.05)


def body(*parts: bytes, said: str | None = None, every: float = 0.0) -> bytes:
    """:func:`arriving.body_of` of a request whose parts come one by one, of at most ten bytes in 0.3 seconds."""
    coming = list(parts)

    async def receive() -> Any:
        await asyncio.sleep(every)
        return {"type": "http.request", "body": coming.pop(0), "more_body": bool(coming)}

    headers = [] if said is None else [(b"content-length", said.encode())]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    return asyncio.run(arriving.body_of(request, 10, 0.3))


def test_a_body_is_read_within_its_size_and_its_time() -> None:
    assert body(b"12345", b"67890") == body(b"1234567890", said="10") == b"1234567890"
    assert body(b"1", b"2", said="2", every=0.01) == b"12"
    assert body(b"", said="no number") == b""


@pytest.mark.parametrize(
    ("parts", "options", "code", "sentence"),
    [
        ([b""], {"said": "11"}, "too_large", "the body has 11 bytes or more, allowed are 10"),
        ([b"12345", b"67890", b"1"], {}, "too_large", "the body has 11 bytes or more, allowed are 10"),
        ([b"1"] * 9, {"every": 0.1}, "timeout", "the body did not arrive in 0.3 seconds"),
    ],
)
def test_a_body_beyond_its_size_or_its_time_is_refused(
    parts: list[bytes], options: dict[str, Any], code: str, sentence: str
) -> None:
    with pytest.raises(Refusal) as refused:
        body(*parts, **options)
    assert (refused.value.code, refused.value.message) == (code, sentence)
