"""Captions over HTTP, asked of a real server on this machine that answers by a script."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from data.rawdata import CATEGORIES, jpeg, picture, write_fashioniq
from PIL import Image
from unifashion_pl.datamodules import endpoint
from unifashion_pl.datamodules.annotate import CaptionInput, Keywords, Target, annotate
from unifashion_pl.datamodules.endpoint import EndpointCaptioner, EndpointError

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.commands import run
from unifashion_pl.data.captions import read_library

KEY = "sk-Very-Secret-0123456789"
KEYWORDS = Keywords({"dress": [("long", 9), ("red", 4)], "shirt": [("blue", 3)]})
Say = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def says(content: Any, status: int = 200, **headers: str) -> Say:
    """An answer whose content is a caption, or that is not a completion (bytes)."""

    def answer(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        body = content if isinstance(content, bytes) else json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def cut(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    """Half of an answer, which is whole JSON by itself."""
    half = json.dumps({"choices": [{"message": {"content": "half"}}]}).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(half) + 20))
    handler.end_headers()
    handler.wfile.write(half)


def hangs_up(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def silent(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    time.sleep(0.5)


USUAL = says("a red dress")


@dataclass
class Server:
    """Says ``script`` one after the other, then ``usual``; keeps what it was asked."""

    script: list[Say] = field(default_factory=list)
    usual: Say = USUAL
    asked: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""

    def captioner(self, **settings: Any) -> EndpointCaptioner:
        return EndpointCaptioner(self.url, "qwen-vl", **{"backoff": 0.001, "concurrency": 1, **settings})

    @property
    def host(self) -> str:
        return self.url.split("/")[2]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # loopback goes by no proxy
    monkeypatch.setenv("MY_KEY", KEY)
    kept, lock = Server(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                kept.asked.append(question)
                kept.heads.append(dict(self.headers))
                kept.paths.append(self.path)
                say = kept.script.pop(0) if kept.script else kept.usual
            say(self, question)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    kept.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield kept
    http.shutdown()
    http.server_close()


def subjects(count: int = 1, size: int = 40) -> list[CaptionInput]:
    return [CaptionInput(picture(i, size, size + 8), "dress", ("long", "red")) for i in range(count)]


def test_a_question_holds_one_image_and_the_prompt_and_nothing_else(server: Server) -> None:
    captioner = server.captioner(max_new_tokens=7, key_env="MY_KEY")
    shown = subjects()[0]
    assert captioner([shown], 0) == ["a red dress"]
    question = server.asked[0]
    assert question.keys() == {"model", "messages", "temperature", "seed", "max_tokens", "stream"}
    assert (question["model"], question["max_tokens"], question["temperature"]) == ("qwen-vl", 7, 0)
    (message,) = question["messages"]
    text, image = message["content"]
    assert (message["role"], text) == ("user", {"type": "text", "text": shown.prompt})
    kind, _, data = image["image_url"]["url"].partition(",")
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (kind, sent.format, sent.size) == ("data:image/jpeg;base64", "JPEG", shown.image.size)
    difference = [abs(a - b) for a, b in zip(sent.resize((1, 1)).getpixel((0, 0)), shown.image.resize((1, 1)).getpixel((0, 0)))]
    assert max(difference) <= 3
    assert server.paths == ["/v1/chat/completions"]
    assert server.heads[0]["Authorization"] == f"Bearer {KEY}"
    assert captioner([shown], 2) == ["a red dress"]
    assert (server.asked[1]["temperature"], server.asked[1]["seed"]) == (1.0, 2)
    assert server.captioner()([shown], 0) == ["a red dress"]
    assert "Authorization" not in server.heads[2]


def test_large_images_are_scaled_down_and_an_address_may_be_whole(server: Server) -> None:
    captioner = EndpointCaptioner(f"{server.url}/chat/completions", "m", max_side=32)
    captioner(subjects(size=100), 0)
    data = server.asked[0]["messages"][0]["content"][1]["image_url"]["url"].partition(",")[2]
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 32
    assert server.paths == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (" a dress \n", "a dress"),
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "dress"}], "a dress"),
        (None, ""),
        ("<think>Is it red?\nIt is.</think>\na red dress", "a red dress"),
        ("<think>cut off", ""),
        (f"the key is {KEY}", "the key is ***"),
    ],
)
def test_what_is_read_off_an_answer(server: Server, content: Any, expected: str) -> None:
    server.usual = says(content)
    assert server.captioner(key_env="MY_KEY")(subjects(), 0) == [expected]


PASSING: dict[str, Say] = {
    "429": says(b"slow down", 429),
    "500": says(b"oops", 500),
    "503": says(b"loading", 503, Retry_After="0"),
    "cut": cut,
    "hung up": hangs_up,
    "silent": silent,
    "no JSON": says(b"<html>busy</html>"),
    "empty": says(b""),
    "other JSON": says(b'{"choices": "none"}'),
    "no choice": says(b'{"choices": []}'),
}


@pytest.mark.parametrize("kind", PASSING)
def test_a_failure_that_passes_is_asked_again_with_the_same_question(server: Server, kind: str) -> None:
    server.script = [PASSING[kind], PASSING[kind]]
    assert server.captioner(timeout=0.1, retries=2)(subjects(), 0) == ["a red dress"]
    assert len(server.asked) == 3
    assert server.asked[0] == server.asked[1] == server.asked[2]


@pytest.mark.parametrize("kind", PASSING)
def test_one_that_stays_ends_the_run_after_so_many_questions(server: Server, kind: str) -> None:
    server.usual = PASSING[kind]
    with pytest.raises(EndpointError, match=rf"{server.host} was asked 2 times and at last .*run the same command again"):
        server.captioner(timeout=0.1, retries=1)(subjects(), 0)
    assert len(server.asked) == 2


class Clock(threading.Event):
    """Waits for nothing and remembers how long."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        return False


def test_waits_double_up_to_a_bound_and_retry_after_comes_first(server: Server) -> None:
    clock = Clock()
    later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=40), usegmt=True)
    oops = PASSING["500"]
    server.script = [oops, oops, says(b"", 429, Retry_After="7"), says(b"", 503, Retry_After=later), oops, oops]
    captioner = server.captioner(backoff=2, max_wait=50, retries=8)
    assert captioner._caption(subjects()[0], 0, clock) == "a red dress"
    assert clock.waited[:3] == [2, 4, 7]
    assert clock.waited[4:] == [32, 50]
    assert 30 < (clock.waited[3] or 0) <= 40


def test_a_server_that_asks_for_a_longer_wait_ends_the_run(server: Server) -> None:
    server.usual = says(b"", 429, Retry_After="3600")
    with pytest.raises(EndpointError, match=r"429 .*asks to wait 3600 s, more than the 60 s .*again later"):
        server.captioner()(subjects(), 0)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            says(b'{"error": "Incorrect API key: ' + KEY.encode() + b'"}', 401),
            r"401 .*\*\*\*.*: it does not take the key of the",
        ),
        (says(b"", 404), r"no model 'qwen-vl'"),
        (says(b"text only", 400), r"400 Bad Request \(text only\): expected is a model that reads images"),
        (says(b"", 307, Location="http://127.0.0.1:9/v1"), "redirections are not followed"),
        (says(b"x" * (endpoint.MAX_ANSWER + 1)), "more than 4,194,304 bytes"),
    ],
)
def test_a_refusal_is_final_and_says_no_key(server: Server, answer: Say, message: str) -> None:
    server.usual = answer
    with pytest.raises(EndpointError, match=message) as caught:
        server.captioner(key_env="MY_KEY")(subjects(3), 0)
    assert KEY not in str(caught.value)
    assert len(server.asked) == 1  # those that waited are not asked


def test_no_server_at_all_is_said() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    captioner = EndpointCaptioner(f"http://127.0.0.1:{port}/v1", "m", retries=1, backoff=0.001)
    with pytest.raises(EndpointError, match=r"asked 2 times and at last gave no answer \(.*refused"):
        captioner(subjects(), 0)


def test_questions_run_side_by_side_up_to_the_bound_and_answers_keep_their_order(server: Server) -> None:
    lock, both = threading.Lock(), threading.Barrier(3)
    now, most = 0, 0

    def slow(handler: BaseHTTPRequestHandler, question: dict[str, Any]) -> None:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        both.wait(10)  # three must be here at once
        size = len(question["messages"][0]["content"][1]["image_url"]["url"])
        with lock:
            now -= 1
        says(str(size))(handler, question)

    server.usual = slow
    shown = subjects(6)
    captions = server.captioner(concurrency=3)(shown, 0)
    assert most == 3
    assert captions == [str(len(endpoint.data_url(subject.image, 1024))) for subject in shown]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "127.0.0.1:8000/v1"}, "address is '127.0.0.1:8000/v1', expected"),
        ({"url": "file:///etc/passwd"}, "expected an address such as"),
        ({"url": "http://h:99999/v1"}, "cannot be read"),
        ({"url": f"http://me:{KEY}@h/v1"}, "holds a user, a password"),
        ({"url": f"http://h/v1?key={KEY}"}, "a key comes from an environment variable"),
        ({"url": "http://h/v1 x"}, "expected an address such as"),
        ({"model": " "}, "has no name"),
        ({"prompt": "{garment.__class__}"}, r"asks for \{garment.__class__\}"),
        ({"prompt": "It should {edit}"}, r"asks for \{edit\}"),
        ({"prompt": "{keywords:>9999}"}, r"asks for \{keywords\}"),
        ({"prompt": "{"}, "cannot be filled in"),
        ({"prompt": " "}, "is empty"),
        ({"key_env": "NO_SUCH_KEY"}, "named for the endpoint's key is not set"),
        ({"key_env": KEY}, "the key itself belongs into no command"),
        ({"key_env": "BROKEN_KEY"}, "BROKEN_KEY holds blanks"),
        ({"timeout": 0}, "timeout is 0"),
        ({"retries": -1}, "retries"),
        ({"concurrency": 0}, "concurrency is 0"),
    ],
)
def test_what_cannot_be_asked_is_said_before(change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKEN_KEY", f"{KEY}\nX-Other: {KEY}")
    with pytest.raises(ArgumentError, match=message) as caught:
        EndpointCaptioner(**{"url": "http://127.0.0.1:1/v1", "model": "m", **change})
    assert KEY not in str(caught.value)


def test_a_key_that_others_can_read_on_its_way_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with pytest.warns(UserWarning, match=r"the key of MY_KEY goes to gpu.example:8000 unencrypted"):
        EndpointCaptioner("http://gpu.example:8000/v1", "m", key_env="MY_KEY")


@pytest.fixture
def targets(tmp_path: Path) -> list[Target]:
    (tmp_path / "images").mkdir()
    for i in range(5):
        (tmp_path / f"images/{i}.jpg").write_bytes(jpeg(i))
    return [Target(f"id{i}", "dress", tmp_path / f"images/{i}.jpg") for i in range(5)]


def test_a_library_says_who_wrote_it_and_goes_on_another_day(
    server: Server, targets: list[Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = server.captioner(key_env="MY_KEY", retries=0)
    begun = captioner.record["date"]
    assert abs(datetime.now(timezone.utc) - datetime.fromisoformat(f"{begun}T12:00+00:00")) < timedelta(hours=24)
    server.script = [server.usual, server.usual, PASSING["500"]]
    out = tmp_path / "c.jsonl"
    with pytest.raises(EndpointError, match="What is finished is kept"):
        annotate(targets, captioner, KEYWORDS, out, batch_size=2, progress=False)
    captioner.record = {**captioner.record, "date": "2031-01-01"}
    annotate(targets, captioner, KEYWORDS, out, batch_size=2, progress=False)
    assert len(server.asked) == 6
    library = read_library(out, expected=[t.id for t in targets])
    assert [line["date"] for line in library.values()] == [begun] * 2 + ["2031-01-01"] * 3
    for line in library.values():
        assert (line["captioner"], line["endpoint"]) == ("qwen-vl", server.host)
        assert line["inputs"] == ["image", "category", "keywords"]
        assert line["weights_hash"] == f"not known: served by {server.host}"
    assert KEY not in out.read_text()
    assert KEY not in repr(vars(captioner))
    with pytest.raises(ValueError, match="written with another captioner:"):
        annotate(targets, EndpointCaptioner(server.url, "other"), KEYWORDS, out, progress=False)


def test_inputs_are_what_the_prompt_tells(server: Server, targets: list[Target], tmp_path: Path) -> None:
    assert server.captioner(prompt="What is it?").record["inputs"] == ["image"]
    assert server.captioner(prompt="Of {keywords}?").record["inputs"] == ["image", "keywords"]
    captioner = server.captioner(prompt="Is the {garment} {{new}}?")
    assert captioner.record["inputs"] == ["image", "category"]
    library = read_library(annotate(targets, captioner, KEYWORDS, tmp_path / "c.jsonl", progress=False))
    assert {line["template"] for line in library.values()} == {"Is the {garment} {{new}}?"}
    assert {question["messages"][0]["content"][0]["text"] for question in server.asked} == {"Is the dress {new}?"}


def test_refusals_are_sampled_again(server: Server, targets: list[Target], tmp_path: Path) -> None:
    server.script = [says("I'm sorry, I cannot see it."), says(None)]
    library = read_library(annotate(targets[:1], server.captioner(), KEYWORDS, tmp_path / "c.jsonl", progress=False))
    assert (library["id0"]["caption"], library["id0"]["attempts"]) == ("a red dress", 3)
    assert [question["seed"] for question in server.asked] == [0, 1, 2]


def test_the_command_line_asks_an_endpoint(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("simplemma")
    root = write_fashioniq(tmp_path / "raw", train=2, val=2, distractors=1)
    out = tmp_path / "captions.val.jsonl"
    command = ["data", "annotate", "--root", str(root), "--out", str(out), "--split", "val"]
    run(
        [
            *command,
            "--endpoint",
            server.url,
            "--served",
            "qwen-vl",
            "--key-env",
            "MY_KEY",
            "--prompt",
            "Describe the {garment}.",
        ]
    )
    listed = [json.loads((root / f"image_splits/split.{c}.val.json").read_text()) for c in CATEGORIES]
    library = read_library(out, expected={id for ids in listed for id in ids})
    assert {line["caption"] for line in library.values()} == {"a red dress"}
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err + out.read_text()
    for wrong in (["--endpoint", server.url], ["--served", "m"], ["--key-env", "MY_KEY"]):
        with pytest.raises(ValueError, match="--endpoint and --served go together"):
            run([*command, *wrong])
    with pytest.raises(ValueError, match="one captioner writes"):
        run([*command, "--endpoint", server.url, "--served", "m", "--vlm", "x"])
