"""Vectors of what is asked: texts by the text side alone where there is one, everything else by the model, which is loaded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from galleries import make_model, pictures

from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.inference.encode import fingerprint
from unifashion_pl.inference.text_encoder import TextEncoder
from unifashion_pl.module import UniFashionModule


def test_a_model_is_loaded_for_what_needs_it_and_once() -> None:
    loaded: list[UniFashionModule] = []

    def load() -> UniFashionModule:
        loaded.append(model)
        return model

    model = UniFashionModule.from_pretrained("tiny")
    quick, slow = QueryEncoder(load, TextEncoder.of("tiny")), QueryEncoder(load)
    (vector,) = quick.texts(["a red dress"])
    told = (quick.fingerprint, quick.width, quick.tokens)
    assert loaded == []
    assert slow.texts(["a red dress"])[0] == pytest.approx(vector, abs=1e-6)
    assert (slow.fingerprint, slow.width, slow.tokens) == told
    assert len(loaded) == 1
    assert quick.images(pictures(1))[0].shape == (quick.tokens, quick.width)
    assert quick.model is quick.model is model
    assert len(loaded) == 2


def test_all_that_is_asked_of_a_model(tmp_path: Path) -> None:
    from PIL import Image

    model = make_model()
    encoder = QueryEncoder(lambda: model)
    assert encoder.fingerprint == fingerprint(model)
    (one, two) = encoder.composed(pictures(1), ["red", "blue"])
    assert one.shape == two.shape == (encoder.width,)
    assert not np.allclose(one, two)
    places = []
    for i, picture in enumerate(pictures(2)):
        places.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(places[-1])
    chances = encoder.matches(places, "a red dress", "target")
    assert len(chances) == 2
    assert all(0 < chance < 1 for chance in chances)
    assert encoder.heat_map(places[0], one, "reference", 0).max() <= 1
