"""Qdrant's REST interface over qdrant-client's local mode, as far as an index needs it: a request takes the way that it takes to a server.

Bodies are read by qdrant-client's own models of them, which refuse what the interface does not have.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a key"


def routes(local: Any) -> dict[tuple[str, str], tuple[Any, Callable[[str, Any], Any]]]:
    """(method, path behind the collection) -> model of the body and what answers it."""
    from qdrant_client.http import models

    def filled(body: Any, **names: str) -> dict[str, Any]:
        """Fields of a body as arguments of the client, under other names where it has others."""
        found = {name: getattr(body, name) for name in type(body).model_fields}
        return {names.get(name, name): value for name, value in found.items() if value is not None}

    def scrolled(name: str, body: Any) -> Any:
        points, offset = local.scroll(name, **filled(body, filter="scroll_filter", with_vector="with_vectors"))
        return {"points": points, "next_page_offset": offset}

    def made(name: str, body: Any) -> bool:
        return bool(local.create_collection(name, **filled(body, vectors="vectors_config")))

    query = {"params": "search_params", "filter": "query_filter", "with_vector": "with_vectors"}
    done = {"operation_id": 0, "status": "completed"}
    return {
        ("GET", "/exists"): (None, lambda name, _: {"exists": local.collection_exists(name)}),
        ("GET", ""): (None, lambda name, _: local.get_collection(name)),
        ("PUT", ""): (models.CreateCollection, made),
        ("PATCH", ""): (models.UpdateCollection, lambda name, body: local.update_collection(name, metadata=body.metadata)),
        ("PUT", "/index"): (models.CreateFieldIndex, lambda name, body: done),
        ("PUT", "/points"): (models.PointsList, lambda name, body: local.upsert(name, body.points) and done),
        ("POST", "/points/delete"): (models.PointIdsList, lambda name, body: local.delete(name, body.points) and done),
        ("POST", "/points/count"): (models.CountRequest, lambda name, body: local.count(name)),
        ("POST", "/points/scroll"): (models.ScrollRequest, scrolled),
        ("POST", "/points"): (
            models.PointRequest,
            lambda name, body: local.retrieve(name, body.ids, body.with_payload, body.with_vector),
        ),
        ("POST", "/points/query"): (
            models.QueryRequest,
            lambda name, body: local.query_points(name, **filled(body, **query)),
        ),
        ("POST", "/facet"): (models.FacetRequest, lambda name, body: local.facet(name, **filled(body, filter="facet_filter"))),
    }


@contextmanager
def served(local: Any) -> Iterator[str]:
    """The URL of a server that wants :data:`KEY`."""
    from pydantic_core import to_json

    known = routes(local)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path = self.path.partition("?")[0].removeprefix("/collections")
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("api-key") != KEY:
                return self.say(401, b"Must provide an API key")
            if path == "":
                return self.say(200, to_json({"result": local.get_collections(), "status": "ok", "time": 0}))
            _, name, *rest = path.split("/")
            model, work = known[self.command, "".join(f"/{part}" for part in rest)]
            try:
                result = work(name, None if model is None else model.model_validate_json(text))
            except ValueError as error:
                return self.say(400, json.dumps({"status": {"error": str(error)}}).encode())
            self.say(200, to_json({"result": result, "status": "ok", "time": 0}))

        do_GET = do_PUT = do_PATCH = do_POST = answer

        def say(self, status: int, text: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
