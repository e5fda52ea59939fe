"""Every address, in this process: answers equal to the gallery's, refusals with their form, what is full, late, near, and hostile."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served import N, base64_of, client_of, code_of, gallery_of, pictures, png, same_hits, service_of
from starlette.testclient import TestClient

from unifashion_pl.gallery import Gallery
from unifashion_pl.module import UniFashionModule
from unifashion_pl.serving.service import Service, answer


def test_hits_are_those_of_the_gallery_whatever_way_they_are_asked(client: TestClient, gallery: Gallery) -> None:
    one, two = pictures(2)
    for body, files, asked in (
        ({"text": "a red dress", "k": 4}, {}, {"text": "a red dress", "k": 4}),
        ({"k": 4}, {"image": one}, {"image": one, "k": 4}),
        ({"k": 4, "text": "in blue"}, {"image": one}, {"image": one, "text": "in blue", "k": 4}),
        ({"text": "a shirt", "where": "price < 50 and category == 'dress'", "group": "product", "k": 2},) * 1 + ({},) + (
            {"text": "a shirt", "where": "price < 50 and category == 'dress'", "group": "product", "k": 2},),
        ({"k": 3, "appearance": 0.5}, {"image": two}, {"image": two, "k": 3, "appearance": 0.5}),
        ({"text": "a shirt", "words": 1.5, "exclude": ["p1", "p2"], "k": 3}, {}, {"text": "a shirt", "words": 1.5, "exclude": ["p1", "p2"], "k": 3}),
        ({"k": 3}, {"like": one, "unlike": two}, {"like": [one], "unlike": [two], "k": 3}),
    ):  # fmt: skip
        wanted = gallery.search(**asked)  # type: ignore[arg-type]
        lists = ("like", "unlike")
        coded = {name: [base64_of(picture)] if name in lists else base64_of(picture) for name, picture in files.items()}
        told = client.post("/search", json={**body, **coded})
        assert told.status_code == 200, told.text
        assert same_hits(told.json(), wanted)
        form = {name: value if isinstance(value, list) else str(value) for name, value in body.items()}
        sent = {name: ("x.png", png(picture)) for name, picture in files.items()} or {"text": (None, str(form.pop("text")))}
        told = client.post("/search", data=form, files=sent)
        assert told.status_code == 200, told.text
        assert same_hits(told.json(), wanted)


def test_facets_and_ready_say_what_the_index_has(client: TestClient, gallery: Gallery) -> None:
    found = client.post("/search", json={"text": "a dress", "facets": ["category"], "k": 1}).json()
    assert {one["value"]: one["count"] for one in found["facets"]["category"]} == gallery.facets("category")
    told = client.get("/ready").json()
    assert (told["images"], told["columns"]) == (N, {"price": "number", "category": "text"})
    assert client.get("/health").json() == {"alive": True}


def test_vectors_are_given(client: TestClient, gallery: Gallery) -> None:
    told = client.post("/embed", json={"text": "a red dress"}).json()
    assert told["vectors"][0] == pytest.approx(gallery.vectors(["a red dress"], None)[0][0][0].tolist(), abs=1e-6)
    told = client.post("/embed", files={"image": png(pictures()[0])}).json()
    assert (len(told["vectors"]), told["query_set"]) == (5, "reference")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/search", 405, "method_not_allowed"),
        ("DELETE", "/ready", 405, "method_not_allowed"),
        ("POST", "/search/", 404, "not_found"),
        ("GET", "/%00%ff", 404, "not_found"),
        ("GET", "/../../etc/passwd", 404, "not_found"),
        ("POST", "/caption", 415, "unsupported_media_type"),
    ],
)
def test_what_is_not_there_is_refused_in_the_one_form(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    found = client.request(method, path)
    assert (found.status_code, code_of(found)) == (status, code)
    assert ("allow" in found.headers) == (status == 405)


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "invalid_body"),
        (b"\xff\xfe{}", JSON, 400, "invalid_body"),
        (b'{"text": NaN}', JSON, 400, "invalid_body"),
        (b"{}", JSON, 422, "invalid_request"),
        (b"null", JSON, 422, "invalid_request"),
        (b'{"text": "\\u0000"}', JSON, 422, "invalid_request"),
        (b'{"text": "\\ud800"}', JSON, 400, "invalid_body"),
        (b'{"text": " \\n\\t "}', JSON, 422, "invalid_request"),
        (b'{"text": "a dress", "where": "\\u0000"}', JSON, 422, "invalid_request"),
        (b'{"text": "a dress", "where": "' + b"(" * 3000 + b'"}', JSON, 422, "invalid_request"),
        (b'{"text": "a dress", "where": "price < 1e400"}', JSON, 422, "invalid_request"),
        (b'{"text": "a dress", "group": "nothing"}', JSON, 422, "invalid_request"),
        (b'{"text": "a dress", "words": 1e308, "caption_weight": 1e308}', JSON, 422, "invalid_request"),
        (b'{"text": "a dress", "appearance": 1}', JSON, 422, "invalid_request"),
        (b"[" * 200_000, JSON, 422, "invalid_request"),
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (b"x", {"content-type": "multipart/form-data"}, 400, "invalid_body"),
        (b"x", {"content-type": "multipart/form-data; boundary=" + "b" * 300}, 400, "invalid_body"),
        (b"{}", {}, 415, "unsupported_media_type"),
        (b'{"text": "' + b"a" * (1 << 20) + b'"}', JSON, 413, "too_large"),
    ],
    ids=range(20),
)  # fmt: skip
def test_hostile_bodies_are_refused(client: TestClient, body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    found = client.post("/search", content=body, headers=headers)
    if b'"appearance"' in body:  # counts beside a text only with an image: nothing to refuse
        assert found.status_code == 200
        return
    assert (found.status_code, code_of(found)) == (status, code), found.text
    assert client.post("/search", json={"text": "a dress", "k": 1}).status_code == 200


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/search", {"text": "a dress", "where": "x" * 3900}),
        ("/search", {"text": "☃" * 2_000}),
        ("/search", {"text": "a dress", "group": "x" * 200}),
        ("/search", {"text": "a dress", "x" * 100_000: 1}),
        ("/search", {"text": "a dress", "exclude": ["\udcff" * 10_000]}),
        ("/caption", {"image": base64_of(pictures()[0]), "style": "x" * 100_000}),
        ("/embed", {"image": "!" * 100_000}),
    ],
    ids=range(7),
)
def test_a_refusal_repeats_no_more_than_the_beginning_of_what_was_sent(client: TestClient, path: str, given: Any) -> None:
    found = client.post(path, content=json.dumps(given), headers=JSON)
    assert found.status_code in (400, 422), found.text
    assert len(found.content) < 1_000


def test_a_body_that_never_says_its_length_is_measured(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 16)

    found = client.post("/search", content=endless(), headers=JSON)
    assert (found.status_code, code_of(found)) == (413, "too_large")
    found = client.post("/search", content=iter([b'{"text": "a dr', b'ess", "k": 1}']), headers=JSON)
    assert found.status_code == 200


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 400 million pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(60_000))) + chunk(b"IEND", b"")


def test_pictures_that_are_bombs_or_none_are_refused(client: TestClient) -> None:
    whole = png(pictures()[0])
    for data, said in (
        (bomb(), "80,000,000 pixels"),
        (whole[: len(whole) // 2], "truncated"),
        (b"\x00" * 100, "unknown format"),
        (whole[:40] + b"\xff" * 40 + whole[80:], "image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image"),
    ):
        assert len(data) < 1 << 20
        found = client.post("/search", files={"image": data})
        assert (found.status_code, code_of(found)) == (422, "unreadable_image"), found.text
        assert said in found.json()["error"]["message"]
    found = client.post("/search", json={"text": "a dress", "image": base64.b64encode(b"x").decode()})
    assert code_of(found) == "unreadable_image"


def test_ids_of_requests_are_kept_or_made(client: TestClient) -> None:
    assert client.get("/health", headers={"x-request-id": "my-1.2_a"}).headers["x-request-id"] == "my-1.2_a"
    made = {
        client.get("/health", headers={"x-request-id": wrong}).headers["x-request-id"]
        for wrong in ("a b", "a" * 65, "", "ä".encode(), "<b>")
    }
    assert len(made) == 5
    assert all(len(id) == 32 and id.isalnum() for id in made)


def test_an_error_of_the_server_tells_nothing_and_the_log_has_it(
    model: UniFashionModule, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(f"{folder}/secret cannot be read")

    with client_of(service_of(folder, model)) as client:
        monkeypatch.setattr("unifashion_pl.gallery.asking.Asking.search_many", broken)
        found = client.post("/search", json={"text": "a dress"}, headers={"x-request-id": "the-one"})
    assert (found.status_code, code_of(found)) == (500, "internal")
    assert "secret" not in found.text
    assert any("the-one" in record.getMessage() and record.exc_info for record in caplog.records)


def test_a_model_without_captions_says_so(client: TestClient) -> None:
    found = client.post("/caption", files={"image": png(pictures()[0])})
    assert (found.status_code, code_of(found)) == (501, "not_available")


def test_measurements_count_addresses_by_status_and_not_by_what_was_typed(client: TestClient) -> None:
    for i in range(5):
        client.get(f"/made-up-{i}")
    client.post("/search", json={"text": "a dress"})
    text = client.get("/metrics").text
    assert 'unifashion_requests_total{endpoint="other",status="404"}' in text
    assert "made-up" not in text
    for name in (
        "unifashion_batch_size_bucket",
        "unifashion_waiting_search 0.0",
        f"unifashion_index_images {N}",
        "process_resident_memory_bytes",
    ):
        assert name in text, name


class Blocked:
    """A worker that waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

        def work(gallery: Any, batch: Any) -> Any:
            self.begun.set()
            assert self.go.wait(20)
            return answer(gallery, batch)

        monkeypatch.setattr("unifashion_pl.serving.service.answer", work)


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    made = Blocked(monkeypatch)
    yield made
    made.go.set()


def until(true: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_full_queue_says_429_and_when_to_come_again_and_what_waits_is_answered(
    model: UniFashionModule, folder: Path, blocked: Blocked
) -> None:
    service = service_of(folder, model, queue=2, batch=8)
    with client_of(service) as client, ThreadPoolExecutor() as pool:

        def ask() -> Any:
            return client.post("/search", json={"text": "a dress", "k": 2})

        first = pool.submit(ask)
        assert blocked.begun.wait(5)
        waiting = [pool.submit(ask) for _ in range(2)]
        until(lambda: len(service.searches) == 2)
        for _ in range(3):
            found = ask()
            assert (found.status_code, code_of(found)) == (429, "too_many_requests")
            assert int(found.headers["retry-after"]) >= 1
        assert client.get("/ready").status_code == 200  # asks no model
        blocked.go.set()
        assert [future.result().status_code for future in (first, *waiting)] == [200] * 3
        assert ask().status_code == 200


def test_pictures_that_wait_for_a_decoder_take_places_of_the_queue(
    model: UniFashionModule, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, go = service_of(folder, model, queue=3), threading.Event()
    decode = service.pixels

    def slow(data: bytes, field: str) -> Any:
        assert go.wait(10)
        return decode(data, field)

    monkeypatch.setattr(service, "pixels", slow)
    with client_of(service) as client, ThreadPoolExecutor() as pool:
        asked = [pool.submit(client.post, "/search", files={"image": png(pictures()[0])}) for _ in range(3)]
        until(lambda: service.searches.taken == 3)
        found = client.post("/search", json={"text": "a dress"})
        assert (found.status_code, code_of(found)) == (429, "too_many_requests")
        go.set()
        assert [future.result().status_code for future in asked] == [200] * 3
        assert service.searches.taken == 0


def test_what_waits_too_long_is_refused_with_503_and_what_is_being_answered_is_not(
    model: UniFashionModule, folder: Path, blocked: Blocked
) -> None:
    service = service_of(folder, model, wait=0.3)
    with client_of(service) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, "/search", json={"text": "a dress"})
        assert blocked.begun.wait(5)
        start = time.monotonic()
        found = client.post("/search", json={"text": "a shirt"})
        assert (found.status_code, code_of(found)) == (503, "waited_too_long")
        assert 0.25 < time.monotonic() - start < 3
        assert len(service.searches) == 0
        blocked.go.set()
        assert first.result().status_code == 200


def test_captions_and_searches_do_not_hold_each_other_up(
    model: UniFashionModule, folder: Path, blocked: Blocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "unifashion_pl.inference.captions.caption", lambda model, images, style, batch_size: [style] * len(images)
    )
    service = service_of(folder, model)
    with client_of(service) as client, ThreadPoolExecutor() as pool:
        service.captioner = type("Captioner", (), {"caption_head": type("Head", (), {"styles": {"fashioniq": ""}})()})()  # type: ignore[assignment]
        first = pool.submit(client.post, "/search", json={"text": "a dress"})
        assert blocked.begun.wait(5)
        found = client.post("/caption", files={"image": png(pictures()[0])}, data={"style": "fashioniq"})
        assert found.json() == {"caption": "fashioniq", "style": "fashioniq"}
        assert not first.done()
        blocked.go.set()
        assert first.result().status_code == 200


def test_more_bytes_than_are_held_at_once_are_refused(
    model: UniFashionModule, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unifashion_pl.serving.limits.BODIES", 1)
    service = service_of(folder, model, max_body=1)
    come, go = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b'{"text": '
        come.set()
        assert go.wait(10)
        yield b'"a dress"}'

    with client_of(service) as client, ThreadPoolExecutor() as pool:
        decode = service.pixels

        def waiting(data: bytes, field: str) -> Any:
            come.set()
            assert go.wait(10)
            return decode(data, field)

        service.pixels = waiting  # type: ignore[method-assign]
        first = pool.submit(
            client.post, "/search", files={"image": png(pictures()[0])}, data={"where": "price < 50" + " " * 700_000}
        )
        try:
            until(lambda: first.done() or come.is_set())
            found = client.post("/search", json={"text": "a" * 900_000})
            held = first.done()
        finally:
            go.set()
        assert not held
        assert (found.status_code, code_of(found)) == (429, "too_many_requests")
        first.result()
        assert client.post("/search", json={"text": "a dress"}).status_code == 200


def test_before_the_index_is_open_it_is_alive_and_not_ready(model: UniFashionModule, folder: Path) -> None:
    go = threading.Event()
    service = service_of(folder, model)
    load = service._load

    def later() -> Any:
        assert go.wait(10)
        return load()

    service._load = later
    with client_of(service, ready=False) as client:
        assert client.get("/health").status_code == 200
        for found in (client.get("/ready"), client.post("/search", json={"text": "a dress"}), client.post("/reload")):
            assert (found.status_code, code_of(found)) == (503, "starting")
            assert "retry-after" in found.headers
        go.set()
        until(lambda: client.get("/ready").status_code == 200)


def test_after_a_signal_to_end_nothing_more_is_taken_and_what_waits_is_answered(
    model: UniFashionModule, folder: Path, blocked: Blocked
) -> None:
    service = service_of(folder, model)
    with client_of(service) as client, ThreadPoolExecutor() as pool:
        asked = [pool.submit(client.post, "/search", json={"text": "a dress"})]
        assert blocked.begun.wait(5)
        asked += [pool.submit(client.post, "/search", json={"text": "a dress"}) for _ in range(2)]
        until(lambda: len(service.searches) == 2)
        service.stopping = True
        for found in (client.get("/ready"), client.post("/search", json={"text": "a dress"})):
            assert (found.status_code, code_of(found)) == (503, "stopping")
        blocked.go.set()
        assert [future.result().status_code for future in asked] == [200] * 3


def test_requests_beside_reloads_are_all_answered(model: UniFashionModule, tmp_path: Path) -> None:
    gallery_of(model, tmp_path / "index")
    service = service_of(tmp_path / "index", model)
    with client_of(service) as client, ThreadPoolExecutor(8) as pool:
        searches = [pool.submit(client.post, "/search", json={"text": "a red dress", "k": 20}) for _ in range(20)]
        gallery_of(model, tmp_path / "index", N + 2)
        reloads = [pool.submit(client.post, "/reload") for _ in range(3)]
        searches += [pool.submit(client.post, "/search", json={"text": "a red dress", "k": 20}) for _ in range(20)]
        assert [future.result().status_code for future in reloads] == [200] * 3
        found = [future.result() for future in searches]
        assert {one.status_code for one in found} == {200}
        assert {len(one.json()["hits"]) for one in found} <= {N, N + 2}
        assert len(client.post("/search", json={"text": "a red dress", "k": 20}).json()["hits"]) == N + 2


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("10.0.0.7", {}, 403),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, 403),
        ("127.0.0.1", {"origin": "http://127.0.0.1"}, 403),
    ],
)
def test_without_a_token_reload_is_for_programs_of_this_machine(
    model: UniFashionModule, folder: Path, host: str, headers: dict[str, str], status: int
) -> None:
    with client_of(service_of(folder, model), host=host) as client:
        found = client.post("/reload", headers=headers)
        assert found.status_code == status
        assert status == 200 or code_of(found) == "forbidden"


def test_with_a_token_everything_but_health_and_ready_asks_for_it(model: UniFashionModule, folder: Path) -> None:
    with client_of(service_of(folder, model), token="s3cret", host="10.0.0.7") as client:
        for path in ("/metrics", "/docs", "/openapi.json", "/nothing"):
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "Basic s3cret"},
                {"authorization": "Bearer "},
            ):
                found = client.get(path, headers=headers)
                assert (found.status_code, code_of(found)) == (401, "unauthorized")
                assert found.headers["www-authenticate"] == "Bearer"
        right = {"authorization": "Bearer s3cret"}
        assert client.get("/metrics", headers=right).status_code == 200
        assert client.post("/reload", headers=right).status_code == 200
        assert client.post("/search", json={"text": "a dress"}, headers=right).status_code == 200
        assert client.get("/health").status_code == 200


def test_the_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    found = client.get("/docs")
    assert found.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in found.text
    assert not any(part in found.text for part in ("src=", "@import", "url("))
    assert json.loads(client.get("/openapi.json").content)["openapi"] == "3.1.0"


@pytest.mark.parametrize("host", ["shop.example", "127.0.0.1.evil.example:8000", "[::1", "", "192.168.0.7"])
def test_without_a_token_a_name_of_elsewhere_reads_nothing(model: UniFashionModule, folder: Path, host: str) -> None:
    """A page whose name leads to this machine would otherwise read the index through its visitor's browser."""
    service = service_of(folder, model)
    with client_of(service) as client:
        for path in ("/search", "/reload"):
            found = client.post(path, json={"text": "a dress"}, headers={"host": host})
            assert (found.status_code, code_of(found)) == (421, "misdirected")
        assert client.get("/metrics", headers={"host": host}).status_code == 421
        assert client.get("/health", headers={"host": host}).status_code == 200
        assert client.post("/search", json={"text": "a dress"}, headers={"host": "localhost:8000"}).status_code == 200
    with client_of(service_of(folder, model), "s3cret") as client:
        right = {"authorization": "Bearer s3cret", "host": host}
        assert client.post("/search", json={"text": "a dress"}, headers=right).status_code == 200


def test_a_shop_that_is_empty_of_answers_says_so_without_an_error(client: TestClient) -> None:
    assert client.post("/search", json={"text": "a dress", "where": "price > 1000"}).json()["hits"] == []


def test_a_service_that_cannot_be_opened_keeps_its_fault(model: UniFashionModule, tmp_path: Path) -> None:
    service = Service(tmp_path / "nothing", service_of(tmp_path, model)._load)
    with client_of(service, ready=False) as client:
        until(lambda: service.fault is not None)
        assert client.get("/ready").status_code == 503
    assert isinstance(service.fault, FileNotFoundError)
