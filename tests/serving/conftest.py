"""A small shop for the tests of serving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import client_of, gallery_of, service_of
from starlette.testclient import TestClient

from unifashion_pl.gallery import Gallery
from unifashion_pl.module import UniFashionModule
from unifashion_pl.serving.service import Service


@pytest.fixture(scope="session")
def model(retriever: Path) -> UniFashionModule:
    return UniFashionModule.from_pretrained(retriever)


@pytest.fixture(scope="session")
def folder(model: UniFashionModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an index that no test changes."""
    place = tmp_path_factory.mktemp("served") / "index"
    gallery_of(model, place)
    return place


@pytest.fixture(scope="session")
def gallery(model: UniFashionModule, folder: Path) -> Gallery:
    return Gallery.load(folder, model)


@pytest.fixture(scope="module")
def service(model: UniFashionModule, folder: Path) -> Iterator[Service]:
    made = service_of(folder, model)
    made.open()
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(model: UniFashionModule, folder: Path) -> Iterator[TestClient]:
    with client_of(service_of(folder, model, max_body=1)) as found:
        yield found
