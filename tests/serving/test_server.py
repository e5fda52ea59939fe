"""A process that serves: its socket, its token, its signals; killed and begun again."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from served import N, gallery_of

from unifashion_pl.module import UniFashionModule
from unifashion_pl.serving.server import TOKEN, token_of


@contextmanager
def served(index: Path, model: Path, *options: str, wait: bool = True) -> Iterator[tuple[Any, str]]:
    """A server of its own process, and its address."""
    command = [sys.executable, "-m", "unifashion_pl", "serve", str(index), "--port", "0", "--model", str(model), *options]
    environment = {name: value for name, value in os.environ.items() if name != TOKEN}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**environment, "OMP_NUM_THREADS": "1"}
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"at (http://\S+),", line)
        assert found, (line, process.stderr.read() if process.stderr else "")
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def ask(address: str, body: Any = None, path: str = "/search", **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(
        address + path, data, {"content-type": "application/json", **headers}, method="POST" if body is not None else "GET"
    )
    with urlopen(request, timeout=20) as answered:
        return json.loads(answered.read())


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_server_is_killed_begun_again_reloaded_and_ended_in_order(
    model: UniFashionModule, exported: Path, tmp_path: Path
) -> None:
    gallery = gallery_of(model, tmp_path / "index")
    wanted = [hit.id for hit in gallery.search("a red dress", k=5)]
    body = {"text": "a red dress", "k": 5}
    with served(tmp_path / "index", exported) as (process, address):
        assert [hit["id"] for hit in ask(address, body)["hits"]] == wanted
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with pytest.raises(OSError):
            ask(address, body)
    port = address.rpartition(":")[2]
    with served(tmp_path / "index", exported, "--port", port) as (process, again):
        assert again == address
        assert [hit["id"] for hit in ask(address, body)["hits"]] == wanted
        # a client that says more than it sends, and goes
        with socket.create_connection(("127.0.0.1", int(port))) as liar:
            liar.sendall(
                b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
            )
        gallery_of(model, tmp_path / "index", N + 2)
        process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 10
        while ask(address, path="/ready")["images"] != N + 2:
            assert time.monotonic() < end
            time.sleep(0.02)
        answers: list[Any] = []

        def answered() -> None:
            try:
                answers.append(len(ask(address, body)["hits"]))
            except HTTPError as error:  # it came after the signal
                answers.append(error.code)
            except OSError:  # nobody listens any more
                answers.append(None)

        asking = [threading.Thread(target=answered) for _ in range(6)]
        for thread in asking:
            thread.start()
        end = time.monotonic() + 10
        while not answers:
            assert time.monotonic() < end
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        for thread in asking:
            thread.join(20)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
        assert answers[0] == 5
        assert len(answers) == 6
        assert set(answers) <= {5, 503, None}
        assert re.search(r"INFO POST /search 200 [\d.]+ ms [0-9a-f]{32}", log)
        assert "499" in log
        assert "Traceback" not in log
        assert "red dress" not in log


def test_an_export_is_served_without_torch(model: UniFashionModule, exported: Path, tmp_path: Path) -> None:
    gallery_of(model, tmp_path / "index")
    program = f"""
import sys
from pathlib import Path
from starlette.testclient import TestClient
from unifashion_pl.commands.serve import ServedModel, opened
from unifashion_pl.serving.app import make_app
from unifashion_pl.serving.openapi import examples
from unifashion_pl.serving.service import Service
service = Service(Path({str(tmp_path / "index")!r}), lambda: opened(ServedModel(model={str(exported)!r})))
service.open()
with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
    while client.get("/ready").status_code != 200: pass
    for path, given in examples().items():
        for body in given.values():
            print(path, client.post(path, json=body).status_code)
print("torch" in sys.modules, "lightning" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *told, heavy = done.stdout.splitlines()
    assert heavy == "False False"
    assert told == ["/search 200"] * 4 + ["/embed 200"] * 3 + ["/caption 501"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nothing"], "is not there"),
        (["INDEX", "--host", "0.0.0.0"], f"set {TOKEN} (or --token)"),
        (["INDEX", "--port", "70000"], "port is 70000"),
        (["INDEX", "--host", "203.0.113.7", "--token", "x"], "cannot listen at 203.0.113.7:0"),
        (["INDEX", "--queue", "0"], "queue is 0"),
        (["INDEX", "--model", "nothing-here"], "nothing-here"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    folder: Path,
    options: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from unifashion_pl.cli import main

    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "serve",
                *(str(folder) if word == "INDEX" else word for word in options),
                *([] if "--port" in options else ["--port", "0"]),
            ]
        )
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_token_is_one_that_a_header_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert token_of(None, "127.0.0.1") is None
    assert token_of("abc", "0.0.0.0") == "abc"
    monkeypatch.setenv(TOKEN, "of-the-environment")
    assert token_of(None, "0.0.0.0") == "of-the-environment"
    assert token_of("abc", "::1") == "abc"
    for wrong in ("", " ", "a\n", "ä", " a"):
        with pytest.raises(ValueError, match="token is empty, or has blanks"):
            token_of(wrong, "127.0.0.1")


def test_a_token_is_asked_for_over_the_wire_and_who_dawdles_is_let_go(
    model: UniFashionModule, exported: Path, tmp_path: Path
) -> None:
    gallery_of(model, tmp_path / "index")
    with served(tmp_path / "index", exported, "--token", "s3cret", "--wait", "2") as (_, address):
        with pytest.raises(HTTPError) as refused:
            ask(address, {"text": "a dress"})
        assert refused.value.code == 401
        assert ask(address, {"text": "a dress", "k": 1}, authorization="Bearer s3cret")["hits"]
        # a head that never ends
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=20) as slow:
            slow.sendall(b"GET /health HTTP/1.1\r\n")
            since = time.monotonic()
            with suppress(ConnectionResetError):
                assert slow.recv(1) == b""
            assert 1.9 < time.monotonic() - since < 10
