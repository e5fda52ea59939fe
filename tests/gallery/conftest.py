"""A small gallery for the tests of what is written of it."""

from __future__ import annotations

import pytest
from galleries import IDS, make_model, pictures

from unifashion_pl.gallery import Gallery, gallery_of
from unifashion_pl.module import UniFashionModule


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return make_model()


@pytest.fixture
def gallery(model: UniFashionModule) -> Gallery:
    return gallery_of(model, pictures(3), ids=IDS, captions=["red", "", "blue"])
