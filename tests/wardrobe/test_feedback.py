"""What a simulated user says about two garments of the wardrobe."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from unifashion_pl.wardrobe.catalogue import SIZES, fiq_distractors, fiq_parts, pair_products
from unifashion_pl.wardrobe.feedback import WardrobeFeedback
from unifashion_pl.wardrobe.layouts import write_fashioniq
from unifashion_pl.wardrobe.products import differences


def test_wardrobe_feedback_knows_every_image_that_the_wardrobe_draws(tmp_path: Path) -> None:
    spec, seed = SIZES["tiny"], 3
    truth = write_fashioniq(tmp_path, spec, seed, lambda function, jobs: (repr(product).encode() for product, *_ in jobs))
    feedback = WardrobeFeedback.of("tiny", seed)
    listed = {i for file in (tmp_path / "image_splits").iterdir() for i in json.loads(file.read_text())}
    assert set(feedback.products) == listed
    shared = [feedback.products[i] for i in fiq_distractors(seed, "val")]
    assert shared == pair_products(seed, "validation", 10)[8:]
    for key, product in feedback.products.items():
        assert (tmp_path / f"images/{key}.jpg").read_text() == repr(product)
    for key, facts in truth.items():
        assert {**feedback.products[key].attributes()}.items() <= facts.items()
    with pytest.raises(KeyError, match="B000000000 is not among the 102 images"):
        feedback("B000000000", next(iter(truth)))


def test_wardrobe_feedback_names_the_differences() -> None:
    feedback = WardrobeFeedback.of("tiny")
    part = next(p for p in fiq_parts(SIZES["tiny"], 0) if p.split == "val")
    names, rng = list(zip(part.ids, part.products)), random.Random(0)
    spoken = 0
    for _ in range(40):
        (a, shown), (b, wanted) = rng.sample(names, 2)
        text = feedback(a, b)
        assert text == feedback(a, b)
        assert (text is None) == (not differences(shown, wanted))
        if text and "colour" in differences(shown, wanted):
            spoken += 1
            assert wanted.colour in text.lower()
    assert spoken > 10
    assert feedback(part.ids[0], part.ids[0]) is None
    other = next(p for p in fiq_parts(SIZES["tiny"], 0) if p.category != part.category)
    assert feedback(part.ids[0], other.ids[0]) is None
