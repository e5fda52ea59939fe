"""The load test: what it sends, counts and calls lost; a whole run where slow."""

from __future__ import annotations

import asyncio
import os

import pytest
import serving
from serving import Connection, Load


def test_a_request_is_a_form_of_its_kind():
    for kind, parts in (("text", 2), ("image", 2), ("composed", 3)):
        head, _, body = serving.request(kind, b"\x00picture").partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert body.count(b"--edge\r\n") == parts
        assert (b"\x00picture" in body) == (kind != "text")


async def answered(replies: list[bytes], requests: int) -> Load:
    """A load of one client on a server that says these things, one a request, and then hangs up."""
    left = list(replies)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left and await reader.readuntil(b"END"):
            writer.write(left.pop(0))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        load, connection = Load(), Connection(server.sockets[0].getsockname()[1])
        for _ in range(requests):
            await serving.timed(load, connection, b"END")
        connection.close()
    return load


def test_answers_refusals_and_what_is_lost_are_counted_apart():
    replies = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 429 Too Many\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n",
    ]
    load = asyncio.run(answered(replies, 4))
    assert dict(load.statuses) == {200: 1, 429: 1, 503: 1, 0: 1}
    assert (len(load.delays), len(load.refusals), load.unsaid) == (1, 3, 1)


def test_a_body_that_is_cut_off_is_lost():
    load = asyncio.run(answered([b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}"], 1))
    assert dict(load.statuses) == {0: 1}


def test_figures_of_a_load():
    load = Load(delays=[0.1 * i for i in range(1, 101)], seconds=2.0, server=5.0)
    load.statuses[200] = 100
    assert (load.rate, load.cost) == (50.0, 0.05)
    assert load.delay(0.5) == pytest.approx(5.1)
    assert load.delay(0.99) == pytest.approx(10.0)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="memory and processor time are read from /proc")
def test_memory_and_time_of_a_process():
    assert serving.memory(os.getpid()) > 10 * serving.MEGABYTE
    assert serving.processor(os.getpid()) > 0


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="memory and processor time are read from /proc")
def test_a_run_measures_loses_nothing_and_begins_again(capsys: pytest.CaptureFixture[str]):
    asyncio.run(serving.main("tiny", None))
    told = capsys.readouterr().out
    for part in ("| composed | 4 |", "4 x overload", "nothing had to be mended", "text search by 4 clients"):
        assert part in told
