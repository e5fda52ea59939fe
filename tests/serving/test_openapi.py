"""The description: whole, true, and its examples are answered."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from served import HERE
from starlette.testclient import TestClient

from unifashion_pl.serving import openapi
from unifashion_pl.serving.app import make_app
from unifashion_pl.serving.bodies import SearchBody
from unifashion_pl.serving.errors import CODES
from unifashion_pl.serving.limits import Limits
from unifashion_pl.serving.service import Service

DOCUMENT = openapi.document(Limits())


def test_it_names_every_address_with_its_method(service: Service) -> None:
    routes = make_app(service).routes
    served = {route.path: min(route.methods - {"HEAD"}).lower() for route in routes}  # type: ignore[attr-defined]
    assert {path: next(iter(methods)) for path, methods in DOCUMENT["paths"].items()} == served


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    text = json.dumps(DOCUMENT)
    found = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert found == set(DOCUMENT["components"]["schemas"])
    assert json.loads(text) == DOCUMENT


def test_fields_are_those_that_are_read() -> None:
    told = DOCUMENT["components"]["schemas"]["SearchBody"]
    assert list(told["properties"]) == list(SearchBody.__struct_fields__)
    assert told["additionalProperties"] is False
    assert all(field.get("description") for field in told["properties"].values())


def test_refusals_are_described_with_their_codes() -> None:
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            for status, told in operation["responses"].items():
                if status != "200":
                    codes = re.findall(r"(?:^|; )(\w+): ", told["description"])
                    assert codes
                    assert {CODES[code][0] for code in codes} == {int(status)}
    search = DOCUMENT["paths"]["/search"]["post"]["responses"]
    assert {"400", "413", "415", "422", "429", "503", "500"} <= set(search)
    assert all("Retry-After" in search[status]["headers"] for status in ("429", "503"))


def examples() -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, name, body) for path, given in openapi.examples().items() for name, body in given.items()]


@pytest.mark.parametrize(("path", "name", "body"), examples(), ids=lambda value: value if isinstance(value, str) else "")
def test_examples_are_answered_as_is_described(client: TestClient, path: str, name: str, body: dict[str, Any]) -> None:
    found = client.post(path, json=body)
    if path == "/caption":  # of this model, which has no captions
        assert found.status_code == 501
        return
    assert found.status_code == 200, found.text
    _, _, _, answer, _ = openapi.ADDRESSES[path]
    msgspec.json.decode(found.content, type=answer)


def test_the_page_has_every_address_field_and_example() -> None:
    page = openapi.page(DOCUMENT)
    for path in DOCUMENT["paths"]:
        assert path in page
    assert all(f"<code>{name}</code>" in page for name in SearchBody.__struct_fields__)
    assert openapi.picture() not in page
    assert HERE not in page


def test_what_is_described_is_escaped() -> None:
    changed = {**DOCUMENT, "info": {**DOCUMENT["info"], "description": "<script>x</script>"}}
    assert "<script>" not in openapi.page(changed)
