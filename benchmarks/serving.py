"""`unifashion serve` under load, over loopback: answers a second and their delay, four times too many requests, and a server that is killed.

    python benchmarks/serving.py                  # all of it, some five minutes on two cores
    python benchmarks/serving.py --scale tiny     # a minute; figures mean nothing
    python benchmarks/serving.py --only ratio     # answered together beside one at a time: the goals

The server is the command, in a process of its own, over an index of drawn garments and the shipped model. Its clients are one program of asyncio and plain sockets,
which keeps connections open and shares the machine's cores with the server; the server's own processor time stands beside the delays.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from sidebyside import Goal

COMMAND = "python benchmarks/serving.py"
KINDS = ("text", "image", "composed")
#: Seconds of a load, images of the index, and clients at once.
SCALES = {"paper": (6.0, 2_000, (1, 4, 16)), "tiny": (0.5, 60, (1, 4))}
#: Requests a second as a multiple of what the server answered, and options of that server.
OVERLOAD, BOUNDS = 4, ("--queue", "32", "--wait", "2")
MEGABYTE = 1 << 20


@dataclass
class Load:
    """What a load gave.

    Attributes:
        statuses: HTTP status -> requests; 0 = lost, without an answer. delays: seconds of the answers with 200.
        seconds: that it lasted. server: of the server's processor time. memory: bytes resident, largest that was seen.
        unsaid: refusals without Retry-After.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    seconds: float = 0.0
    server: float = 0.0
    memory: int = 0
    unsaid: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.statuses[200] / self.seconds

    @property
    def cost(self) -> float:
        """The server's processor time of an answer, in seconds."""
        return self.server / max(self.statuses[200], 1)

    def delay(self, share: float) -> float:
        """Seconds below which a share of the answers came."""
        return percentile(self.delays, share)


def percentile(values: list[float], share: float) -> float:
    """
    >>> percentile([3.0, 1.0, 2.0], 0.5), percentile([1.0], 0.99)
    (2.0, 1.0)
    """
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def shop(folder: Path, images: int) -> dict[str, bytes]:
    """An index of drawn garments in ``folder/index``, and a request of each kind, ready to be sent."""
    from unifashion_pl import UniFashionModule
    from unifashion_pl.wardrobe.catalogue import pair_products
    from unifashion_pl.wardrobe.render import render_product

    products = pair_products(1, "validation", images)
    drawn = [render_product(product, "front", 96, f"serving-{i}") for i, product in enumerate(products)]
    model = UniFashionModule.from_pretrained("tiny", heads=["retrieval"])
    columns = [{"price": float(i % 100)} for i in range(images)]
    model.gallery(drawn, ids=[str(i) for i in range(images)], columns=columns).save(folder / "index")
    data = BytesIO()
    drawn[0].resize((768, 1024)).save(data, "JPEG")
    return {kind: request(kind, data.getvalue()) for kind in KINDS}


def request(kind: str, picture: bytes) -> bytes:
    """A search as bytes: a form with a picture of 768 x 1024, a text, or both."""
    fields = [("k", "10", ""), *([("text", "a long red dress", "")] if kind != "image" else [])]
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'.encode()
        for name, value, more in fields
    ]
    if kind != "text":
        parts.append(b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + picture + b"\r\n")
    body = b"".join(parts) + b"--edge--\r\n"
    head = f"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=edge\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextmanager
def server(index: Path, *options: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command in a process of its own, once it is ready, and its port."""
    command = [sys.executable, "-m", "unifashion_pl", "serve", str(index), "--port", str(port), "--no-captions", *options]
    environment = {name: value for name, value in os.environ.items() if name != "UNIFASHION_TOKEN"}
    with open(index.parent / "server.log", "a") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**environment, "OMP_NUM_THREADS": "1"}
        )
    try:
        assert process.stdout is not None
        found = re.search(r"at http://127\.0\.0\.1:(\d+),", process.stdout.readline())
        if found is None:
            raise RuntimeError(f"the server did not begin: {(index.parent / 'server.log').read_text()[-2000:]}")
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def processor(pid: int) -> float:
    """Seconds of processor time that a process has had."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Bytes that a process has in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


class Connection:
    """A connection that is kept open, and opened again when it is lost."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, sent: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers; status 0 = no answer."""
        try:
            if self._ends is None:
                self._ends = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self._ends
            writer.write(sent)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, b"", {}
        return int(status.split()[1]), body, headers

    def close(self) -> None:
        if self._ends is not None:
            self._ends[1].close()
            self._ends = None


async def timed(load: Load, connection: Connection, sent: bytes) -> int:
    """Ask once and note what came."""
    start = time.perf_counter()
    status, _, headers = await connection.ask(sent)
    taken = time.perf_counter() - start
    load.statuses[status] += 1
    (load.delays if status == 200 else load.refusals).append(taken)
    load.unsaid += status in (429, 503) and "retry-after" not in headers
    return status


@contextmanager
def watched(load: Load, pid: int) -> Iterator[None]:
    before, start = processor(pid), time.perf_counter()
    yield
    load.seconds, load.server = time.perf_counter() - start, processor(pid) - before
    load.memory = max(load.memory, memory(pid))


async def closed(pid: int, port: int, sent: bytes, clients: int, seconds: float) -> Load:
    """So many clients, each of which asks again when it has its answer."""
    load, end = Load(), time.perf_counter() + seconds

    async def client() -> None:
        connection = Connection(port)
        while time.perf_counter() < end:
            await timed(load, connection, sent)
        connection.close()

    with watched(load, pid):
        await asyncio.gather(*(client() for _ in range(clients)))
    return load


async def opened(pid: int, port: int, sent: bytes, rate: float, seconds: float) -> Load:
    """Requests at a rate, whether or not earlier ones have their answers; the memory is looked at ten times a second."""
    load, idle, tasks = Load(), list[Connection](), set[asyncio.Task[None]]()

    async def one() -> None:
        connection = idle.pop() if idle else Connection(port)
        await timed(load, connection, sent)
        idle.append(connection)

    with watched(load, pid):
        start, looked = time.perf_counter(), 0.0
        for number in range(int(rate * seconds)):
            if (early := start + number / rate - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            elif number % 8 == 0:
                await asyncio.sleep(0)
            tasks.add(task := asyncio.create_task(one()))
            task.add_done_callback(tasks.discard)
            if time.perf_counter() - looked > 0.1:
                looked, load.memory = time.perf_counter(), max(load.memory, memory(pid))
        await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return load


async def ids(port: int, sent: bytes) -> list[str]:
    """Of the hits of one request."""
    connection = Connection(port)
    status, body, _ = await connection.ask(sent)
    connection.close()
    assert status == 200, body
    return [hit["id"] for hit in json.loads(body)["hits"]]


async def throughput(folder: Path, requests: dict[str, bytes], seconds: float, clients: tuple[int, ...]) -> float:
    """Answers and delays by kind and number of clients; gives the answers a second of image searches by the most clients."""
    print(
        "| search | clients | answers/s | p50 ms | p95 ms | p99 ms | server's processor ms an answer |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    rate = 0.0
    with server(folder / "index") as (process, port):
        for kind, sent in requests.items():
            for number in clients:
                load = await closed(process.pid, port, sent, number, seconds)
                assert set(load.statuses) == {200}, load.statuses
                told = (f"{load.delay(share) * 1e3:.1f}" for share in (0.5, 0.95, 0.99))
                print(f"| {kind} | {number} | {load.rate:.0f} | {' | '.join(told)} | {load.cost * 1e3:.2f} |", flush=True)
                rate = load.rate if kind == "image" else rate
    return rate


async def overload(folder: Path, sent: bytes, rate: float, seconds: float) -> Load:
    """Four times as many image searches as were answered."""
    with server(folder / "index", *BOUNDS) as (process, port):
        await closed(process.pid, port, sent, 16, seconds / 4)
        before = memory(process.pid)
        load = await opened(process.pid, port, sent, OVERLOAD * rate, seconds)
        after = await closed(process.pid, port, sent, 1, seconds / 4)
    sums = ", ".join(f"{number:,} x {status or 'lost'}" for status, number in sorted(load.statuses.items()))
    print(
        f"\n{OVERLOAD} x overload, {OVERLOAD * rate:.0f} image searches a second for {seconds:.0f} s, {' '.join(BOUNDS)}: {sums}"
    )
    print(f"answers {load.rate:.0f}/s, p50 {load.delay(0.5) * 1e3:.0f} ms, p99 {load.delay(0.99) * 1e3:.0f} ms; refusals p50 "
          f"{percentile(load.refusals, 0.5) * 1e3:.0f} ms, p99 {percentile(load.refusals, 0.99) * 1e3:.0f} ms, without Retry-After: {load.unsaid}")  # fmt: skip
    print(
        f"memory {before / MEGABYTE:.0f} MiB before, at most {load.memory / MEGABYTE:.0f} MiB meanwhile; afterwards p50 {after.delay(0.5) * 1e3:.1f} ms"
    )
    assert set(load.statuses) <= {200, 429, 503}, load.statuses
    assert load.unsaid == 0
    return load


async def killed(folder: Path, sent: bytes, clients: int) -> None:
    """kill -9 under load, and the same command again."""
    load = Load()

    async def client(port: int) -> None:
        connection = Connection(port)
        while await timed(load, connection, sent):
            pass

    with server(folder / "index") as (process, port):
        wanted = await ids(port, sent)
        asking = [asyncio.create_task(client(port)) for _ in range(clients)]
        await asyncio.sleep(1.0)
        process.send_signal(signal.SIGKILL)
        await asyncio.gather(*asking)
        start = time.perf_counter()
    with server(folder / "index", port=port):
        taken = time.perf_counter() - start
        assert await ids(port, sent) == wanted
    print(f"\nkill -9 under {clients} clients: {load.statuses[200]} answers before, {load.statuses[0]} requests without one, those that were being answered; begun again on "
          f"the same port, ready after {taken:.1f} s, with the same hits; nothing had to be mended")  # fmt: skip
    assert load.statuses[0] == clients


async def ratio(folder: Path, requests: dict[str, bytes], seconds: float, clients: int, rounds: int = 3) -> list[Goal]:
    """Answered together beside one at a time, in turns: the server's processor time of an answer."""
    goals = []
    for kind, sent in requests.items():
        costs: dict[str, list[Load]] = {"32": [], "1": []}
        with server(folder / "index", "--batch", "32") as one, server(folder / "index", "--batch", "1") as two:
            places = {"32": one, "1": two}
            assert await ids(one[1], sent) == await ids(two[1], sent)
            for _ in range(rounds):
                for name, (process, port) in places.items():
                    costs[name].append(await closed(process.pid, port, sent, clients, seconds / 2))
        ours, peer = (statistics.median(load.cost for load in costs[name]) for name in ("32", "1"))
        rates = [statistics.median(load.rate for load in costs[name]) for name in ("32", "1")]
        told = f"{ours * 1e3:.2f} ms, {rates[0]:.0f}/s", f"one at a time {peer * 1e3:.2f} ms, {rates[1]:.0f}/s"
        words = f"serve, {kind} search by {clients} clients, answered together: processor time of an answer"
        goals.append(Goal(words, *told, peer / ours, 1.0, "the same hits", f"{COMMAND} --only ratio"))
    return goals


def goals(scale: str = "paper") -> list[Goal]:
    """Measured anew."""
    seconds, images, clients = SCALES[scale]
    with tempfile.TemporaryDirectory() as work:
        requests = shop(Path(work), images)
        return asyncio.run(ratio(Path(work), requests, seconds, clients[-1], 3 if scale == "paper" else 1))


async def main(scale: str, only: str | None) -> None:
    seconds, images, clients = SCALES[scale]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        requests = shop(folder, images)
        print(f"{images:,} images, {os.cpu_count()} cores, {date()}\n")
        if only != "ratio":
            rate = await throughput(folder, requests, seconds, clients)
            await overload(folder, requests["image"], rate, seconds * 2)
            await killed(folder, requests["image"], clients[-1])
        for goal in await ratio(folder, requests, seconds, clients[-1], 3 if scale == "paper" else 1):
            print(f"\n{goal.goal}: {goal.ours}; {goal.peer}; {goal.ratio:.2f} x, {goal.equal}")


def date() -> str:
    return time.strftime("%Y-%m-%d")


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--scale", choices=[*SCALES], default="paper")
    asked.add_argument("--only", choices=["ratio"])
    given = asked.parse_args()
    asyncio.run(main(given.scale, given.only))
