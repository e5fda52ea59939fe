"""The page over HTTP: who may ask, how much, and what browsers are told; nothing is written, and nothing is loaded from elsewhere."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra `demo` is not installed")
import anyio
from starlette.testclient import TestClient

from unifashion_pl.demo import app, uploads
from unifashion_pl.demo.answers import Answers
from unifashion_pl.demo.app import application
from unifashion_pl.pages import inside


@pytest.fixture
def client(answers: Answers) -> TestClient:
    return TestClient(application(answers), base_url="http://127.0.0.1:8600")


_opened: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if (set(mode) & set("wax+")) if isinstance(mode, str) else (flags & 3):
            _opened.append(str(path))
    elif event in ("socket.connect", "socket.getaddrinfo", "os.mkdir", "tempfile.mkstemp", "tempfile.mkdtemp"):
        _opened.append(f"{event} {arguments}")


@contextmanager
def watched() -> Iterator[list[str]]:
    """What is opened for writing, or reached over a network, meanwhile; by Python's own audit events."""
    global _opened
    if not getattr(sys, "_demo_hook", False):
        sys.addaudithook(_hook)
        sys._demo_hook = True  # type: ignore[attr-defined]
    found: list[str] = []
    _opened = found
    try:
        yield found
    finally:
        _opened = None


def photo(size: tuple[int, int] = (120, 160)) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 99).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def test_an_upload_and_what_is_done_with_it_are_written_nowhere_and_reach_nobody(client: TestClient, tmp_path: Any) -> None:
    client.get("/state")
    with watched() as found:
        looked = client.post("/look", content=photo()).json()
        assert client.post("/look", content=b"%PDF").status_code == 415
        assert client.post("/search", json={"image": looked["picture"]}).status_code == 200
        assert client.post("/caption", json={"image": looked["picture"]}).status_code == 200
        white = inside(Image.new("L", (120, 160), 255), "PNG")
        answer = client.post("/tryon", json={"person": looked["picture"], "garment": "example:garment-0", "mask": white})
        assert answer.status_code == 422
        mask = Image.new("L", (120, 160))
        mask.paste(255, (30, 50, 90, 120))
        asked = {"person": looked["picture"], "garment": "example:garment-0", "mask": inside(mask, "PNG")}
        assert client.post("/tryon", json=asked).status_code == 200
    assert found == []
    with watched() as found:
        (tmp_path / "x").write_text("seen")
    assert found == [str(tmp_path / "x")]


def test_the_page_and_its_files_name_no_other_host_and_browsers_would_load_nothing_from_there(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert policy.startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    )
    named = sorted(set(re.findall(r"(?:src|href)=\"(/static/[^\"]+)\"", page.text)))
    assert named == ["/static/demo.css", "/static/demo.js", "/static/icon.svg"]
    kinds = {}
    for name in (*named, "/static/pad.js"):
        answer = client.get(name)
        assert answer.status_code == 200
        kinds[name] = answer.headers["content-type"].partition(";")[0]
        assert not re.search(r"https?://(?!www\.w3\.org/)", answer.text)
    assert kinds["/static/demo.js"] == "text/javascript"
    assert not re.search(r"https?://", page.text)
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/__init__.py").status_code == 404


def test_a_search_over_http(client: TestClient) -> None:
    answer = client.post("/search", json={"texts": ["a red dress"], "k": 3})
    assert answer.status_code == 200
    assert len(answer.json()["hits"]) == 3
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "[::1"}, 421),
        ({"host": ""}, 421),
        ({"host": "127.0.0.1@evil.example"}, 421),
        ({"origin": "http://["}, 403),
        ({"host": "[::1]:8600", "origin": "http://[::1]:8600"}, 200),
        ({"host": "127.0.0.1.evil.example:8600"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"origin": "http://127.0.0.1:8600"}, 200),
        ({"host": "localhost:8600", "origin": "http://localhost:8600"}, 200),
    ],
)
def test_pages_from_elsewhere_are_not_answered(client: TestClient, headers: dict[str, str], status: int) -> None:
    answer = client.post("/search", content=b'{"texts": ["red"]}', headers={"content-type": "application/json", **headers})
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)


def test_uploads_have_a_limit_whether_they_say_their_size_or_not(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_BYTES", 50_000)
    monkeypatch.setattr(app, "MAX_REQUEST", 60_000)
    monkeypatch.setattr(uploads, "MAX_BYTES", 50_000)
    told = client.post("/look", content=bytes(50_001))
    streamed = client.post("/look", content=(bytes(10_000) for _ in range(9)))
    asked = client.post("/search", json={"texts": ["red"], "image": "x" * 60_000})
    assert [answer.status_code for answer in (told, streamed, asked)] == [413, 413, 413]
    assert "Save it smaller" in told.json()["error"]["cure"]
    assert client.post("/look", content=photo((20, 20))).status_code == 200


@pytest.mark.parametrize(
    "body", ["", "{", "[]", '{"texts": "red"}', '{"texts": [1]}', '{"k": "many"}', '{"image": {}}', '{"text": "red"}']
)
def test_a_request_that_cannot_be_read_is_an_answer_not_a_failure(client: TestClient, body: str) -> None:
    answer = client.post("/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "the request" in answer.json()["error"]["found"]


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("search", {"texts": ["red"], "where": "x" * 3900}),
        ("search", {"image": "hit:" + "x" * 10_000}),
        ("search", {"image": "example:" + "x" * 10_000}),
        ("search", {"image": "x" * 10_000}),
        ("search", {"x" * 10_000: 1}),
        ("design", {"person": "example:person-0", "sampler": "x" * 10_000}),
    ],
)
def test_a_refusal_repeats_no_more_than_the_beginning_of_what_was_sent(client: TestClient, path: str, given: Any) -> None:
    answer = client.post(f"/{path}", json=given)
    assert answer.status_code in (400, 404, 422), answer.text
    assert len(answer.content) < 1_000


def test_who_goes_in_mid_request_leaves_no_error(answers: Answers) -> None:
    asked = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/search", "query_string": b"", "headers": headers}
    sent: list[Any] = []

    async def receive() -> Any:
        return asked.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    anyio.run(application(answers), scope, receive, send)
    assert sent == []


def test_an_upload_that_does_not_arrive_is_not_waited_for(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ARRIVAL", 0.1)
    sent: list[Any] = []

    async def receive() -> Any:
        await anyio.sleep(0.06)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    for path in ("/look", "/search"):
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        anyio.run(application(answers), scope, receive, send)
        start, body = sent[-2:]
        assert start["status"] == 408
        assert b"the body did not arrive in 0.1 seconds" in body["body"]


def test_a_mistake_of_the_page_s_user_comes_in_three_parts(client: TestClient) -> None:
    answer = client.post("/tryon", json={"person": "example:person-0", "garment": "example:garment-0"})
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "found": "nothing says where to paint",
        "expected": "a region drawn over the person",
        "cure": "Draw over what is to be repainted, or fill a box by its four numbers",
        "picture": None,
    }


def test_when_too_many_wait_the_next_is_sent_away(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "WAITING", -1)
    answer = client.post("/look", content=photo())
    assert answer.status_code == 503
    assert answer.json()["error"]["cure"].startswith("Try again")
