"""A small shop behind a server in this process."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from PIL import Image
from starlette.testclient import TestClient

from unifashion_pl.gallery import Gallery
from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.module import UniFashionModule
from unifashion_pl.serving.app import make_app
from unifashion_pl.serving.limits import Limits
from unifashion_pl.serving.service import Service

N = 9
HERE = "http://127.0.0.1"


def pictures(n: int = N, seed: int = 5) -> list[Image.Image]:
    """Coarse random patterns, taller than wide, which an untrained tower tells apart."""
    cells = np.random.default_rng(seed).integers(0, 255, (n, 4, 3, 3), np.uint8)
    return [Image.fromarray(one).resize((48, 60), Image.Resampling.NEAREST) for one in cells]


def png(picture: Image.Image) -> bytes:
    data = BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def base64_of(picture: Image.Image) -> str:
    return base64.b64encode(png(picture)).decode()


def gallery_of(model: UniFashionModule, folder: Path, n: int = N) -> Gallery:
    """A saved gallery with columns and products."""
    columns: list[dict[str, Any]] = [{"price": 10.0 * i, "category": ("dress", "shirt")[i % 2]} for i in range(n)]
    captions = ["a red dress", "", "a blue shirt", *[""] * (n - 3)]
    products = [f"product-{i // 2}" for i in range(n)]
    made = model.gallery(pictures(n), ids=[f"p{i}" for i in range(n)], captions=captions, columns=columns, products=products)
    made.save(folder)
    return made


def service_of(folder: Path, model: UniFashionModule, **limits: Any) -> Service:
    return Service(
        folder, lambda: (QueryEncoder(lambda: model), model if model.caption_head is not None else None), Limits(**limits)
    )


@contextmanager
def client_of(service: Service, token: str | None = None, host: str = "127.0.0.1", ready: bool = True) -> Iterator[TestClient]:
    """A client of an app whose model and index are open."""
    app = make_app(service, token)
    with TestClient(app, base_url=HERE, client=(host, 50000), raise_server_exceptions=False) as client:
        while ready and client.get("/ready").status_code != 200:
            assert service.fault is None, service.fault
            time.sleep(0.01)
        yield client


def code_of(response: Any) -> str:
    """The code of a refusal, whose form is checked."""
    told = response.json()
    assert set(told) == {"error"}
    error = told["error"]
    assert {"code", "message", "request_id"} <= set(error)
    assert error["request_id"] == response.headers["x-request-id"]
    assert ("retry-after" in response.headers) == ("retry_after" in error)
    return str(error["code"])


def as_served(hits: Any) -> list[dict[str, Any]]:
    """Hits as an answer has them."""
    return [{name: value for name, value in hit.as_json().items() if name != "image"} for hit in hits]


def same_hits(answer: Any, hits: Any) -> bool:
    """Equal but for last bits, which depend on what is asked together."""
    served, own = answer["hits"], as_served(hits)
    assert [hit["id"] for hit in served] == [hit["id"] for hit in own]
    for one, two in zip(served, own, strict=True):
        assert one["score"] == pytest.approx(two["score"], abs=1e-6)
        assert one["parts"] == pytest.approx(two["parts"], abs=1e-6)
        assert (one["product"], one["caption"], one["columns"]) == (two["product"], two["caption"], two["columns"])
    return True
