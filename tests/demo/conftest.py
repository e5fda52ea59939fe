"""The page's answers by the shipped model, over a few drawn garments."""

from __future__ import annotations

import pytest

from unifashion_pl.demo.answers import Answers
from unifashion_pl.demo.catalogue import wardrobe
from unifashion_pl.demo.examples import clothes, persons
from unifashion_pl.demo.models import Models, Shown
from unifashion_pl.module import UniFashionModule


@pytest.fixture(scope="session")
def answers() -> Answers:
    shown = Shown(UniFashionModule.from_pretrained("tiny"), "the toy")
    return Answers(Models(shown, shown), wardrobe(shown.model, families=4, others=2), persons(1), clothes(2))
