"""Vectors of what is asked: texts by the text side alone where there is one, everything else by the model, which is loaded once."""

from __future__ import annotations

import pytest
from galleries import pictures

from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.inference.text_encoder import TextEncoder
from unifashion_pl.module import UniFashionModule


def test_a_model_is_loaded_for_what_needs_it_and_once() -> None:
    loaded: list[UniFashionModule] = []

    def load() -> UniFashionModule:
        loaded.append(model)
        return model

    model = UniFashionModule.from_pretrained("tiny")
    quick, slow = QueryEncoder(load, TextEncoder.of("tiny")), QueryEncoder(load)
    (vector,) = quick.side.texts(["a red dress"])
    told = (quick.side.fingerprint, quick.shape(None), quick.shape(2))
    assert loaded == []
    assert slow.side.texts(["a red dress"])[0] == pytest.approx(vector, abs=1e-6)
    assert (slow.side.fingerprint, slow.shape(None), slow.shape(2)) == told
    assert len(loaded) == 1
    assert quick.whole.images(pictures(1))[0].shape == quick.shape(None)
    assert quick.whole is quick.whole
    assert quick.whole.model is model
    assert len(loaded) == 2
