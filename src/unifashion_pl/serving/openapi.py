"""What can be asked, in the form of OpenAPI 3.1, and a page made of it that needs no script and nothing from elsewhere."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
from PIL import Image

from unifashion_pl.data.formats import encode_png
from unifashion_pl.pages import environment
from unifashion_pl.serving.bodies import CaptionAnswer, CaptionBody, EmbedAnswer, EmbedBody, SearchAnswer, SearchBody
from unifashion_pl.serving.errors import CODES
from unifashion_pl.serving.limits import Limits
from unifashion_pl.version import __version__

SCHEMAS = "#/components/schemas/{name}"
#: Every address: method, what it is for, body, answer, and the codes that it may refuse with beside those of all.
READ = ("invalid_body", "timeout", "too_large", "unsupported_media_type", "invalid_request", "unreadable_image")
QUEUED = (*READ, "too_many_requests", "not_available", "starting", "stopping", "waited_too_long")
ADDRESSES: dict[str, tuple[str, str, type | None, type | None, tuple[str, ...]]] = {
    "/search": (
        "post",
        "Search by text, by image, by an image and what is to be changed in it, or by examples",
        SearchBody,
        SearchAnswer,
        QUEUED,
    ),
    "/embed": ("post", "Vectors of a text, of an image, or of both composed", EmbedBody, EmbedAnswer, QUEUED),
    "/caption": ("post", "Describe an image", CaptionBody, CaptionAnswer, QUEUED),
    "/reload": (
        "post",
        "Open the index anew; nothing that is being answered is dropped",
        None,
        None,
        ("forbidden", "conflict", "starting"),
    ),
    "/health": ("get", "Whether the server is alive", None, None, ()),
    "/ready": ("get", "Whether model and index are open, and what they are", None, None, ("starting", "stopping")),
    "/metrics": ("get", "Measurements for Prometheus", None, None, ()),
    "/openapi.json": ("get", "This description", None, None, ()),
    "/docs": ("get", "This description as a page", None, None, ()),
}


def picture() -> str:
    """A small picture in base64, for examples."""
    return base64.b64encode(encode_png(Image.new("RGB", (8, 8), (60, 60, 160)))).decode()


def examples() -> dict[str, dict[str, dict[str, Any]]]:
    """Bodies by address and name."""
    image = picture()
    return {
        "/search": {
            "text": {"text": "a grey shirt", "k": 5},
            "image": {"image": image, "k": 5},
            "composed": {"image": image, "text": "in blue, with long sleeves", "k": 5},
            "filtered": {"text": "a grey shirt", "k": 5, "where": "id != '1001'", "group": "product", "facets": ["product"]},
        },
        "/embed": {
            "text": {"text": "a grey shirt"},
            "image": {"image": image},
            "composed": {"image": image, "text": "in blue"},
        },
        "/caption": {"image": {"image": image, "style": "fashiongen"}},
    }


def document(limits: Limits) -> dict[str, Any]:
    """The description."""
    kinds = [kind for _, _, body, answer, _ in ADDRESSES.values() for kind in (body, answer) if kind is not None]
    _, schemas = msgspec.json.schema_components(kinds, ref_template=SCHEMAS)
    schemas["Refused"] = {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "code": {"type": "string", "enum": [*CODES]},
                    "message": {"type": "string"},
                    "request_id": {"type": "string"},
                    "retry_after": {"type": "integer", "description": "seconds, as the header Retry-After"},
                },
                "required": ["code", "message", "request_id"],
            }
        },
        "required": ["error"],
    }
    given = examples()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "unifashion serve",
            "version": __version__,
            "description": "Search in an index of pictures by text, by image, and by both. "
            f"{limits.queue} requests may wait, {limits.wait:g} seconds each; a body has at most {limits.max_body} MB. "
            "Every answer has the header X-Request-ID: the request's own (letters, digits, '.', '_', '-', at most 64), or a new one.",
        },
        "paths": {path: {address[0]: _operation(path, address, given.get(path, {}))} for path, address in ADDRESSES.items()},
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }


def _operation(
    path: str, address: tuple[str, str, type | None, type | None, tuple[str, ...]], given: dict[str, Any]
) -> dict[str, Any]:
    _, summary, body, answer, codes = address
    content = {"application/json": {"schema": _ref(answer)}} if answer is not None else {}
    found: dict[str, Any] = {
        "summary": summary,
        "operationId": path.strip("/").replace(".json", ""),
        "responses": {"200": {"description": "done", **({"content": content} if content else {})}},
    }
    if body is not None:
        shown = {name: {"value": value} for name, value in given.items()}
        found["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {"schema": _ref(body), "examples": shown},
                "multipart/form-data": {"schema": _ref(body)},
            },
        }
    by_status: dict[int, list[str]] = {}
    for code in (*codes, "unauthorized", "misdirected", "internal"):
        by_status.setdefault(CODES[code][0], []).append(code)
    for status, own in sorted(by_status.items()):
        told: dict[str, Any] = {
            "description": "; ".join(f"{code}: {CODES[code][1]}" for code in own),
            "content": {"application/json": {"schema": {"$ref": SCHEMAS.format(name="Refused")}}},
        }
        if status in (429, 503):
            told["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
        found["responses"][str(status)] = told
    return found


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": SCHEMAS.format(name=kind.__name__)}


def page(described: dict[str, Any]) -> str:
    """The description for people."""
    schemas = described["components"]["schemas"]
    operations = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            name = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
            shown = {title: _short(example["value"]) for title, example in body.get("examples", {}).items()}
            operations.append(
                {
                    "method": method.upper(),
                    "path": path,
                    "summary": operation["summary"],
                    "fields": _fields(schemas[name]) if name else [],
                    "examples": shown,
                    "responses": [(status, told["description"]) for status, told in operation["responses"].items()],
                }
            )
    template = environment("unifashion_pl.serving").get_template("docs.html.j2")
    return template.render(info=described["info"], operations=operations)


def _short(body: dict[str, Any]) -> str:
    """A body as a line of JSON, its picture cut."""
    return json.dumps(
        {name: value[:24] + "…" if name == "image" else value for name, value in body.items()}, ensure_ascii=False
    )


def _fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Names, types, defaults and meanings."""
    found = []
    for name, told in schema["properties"].items():
        kinds = [_kind(one) for one in told.get("anyOf", [told])]
        required = name in schema.get("required", ())
        words = told.get("description") or next(
            (one["description"] for one in told.get("anyOf", ()) if "description" in one), ""
        )
        default = "required" if required else json.dumps(told.get("default"))
        found.append(
            {"name": name, "kind": " or ".join(kind for kind in kinds if kind != "null"), "default": default, "meaning": words}
        )
    return found


def _kind(told: dict[str, Any]) -> str:
    kind = "base64" if told.get("contentEncoding") == "base64" else str(told.get("type", "any"))
    return f"list of {_kind(told['items'])}" if kind == "array" else kind
