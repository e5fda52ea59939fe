"""What a search asks the whole model; where a token looked, against the change of its score when the place is covered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from galleries import make_model, pictures
from PIL import Image

from unifashion_pl.gallery.model_queries import ModelQueries
from unifashion_pl.gallery.scan import as_array
from unifashion_pl.inference.encode import fingerprint


def test_all_that_is_asked_of_a_model(tmp_path: Path) -> None:
    model = make_model()
    encoder = ModelQueries(model)
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


def test_a_map_is_the_first_order_change_of_the_score() -> None:
    model, picture = make_model(), pictures()[3]
    vector = model.encode_text("a red dress")[0]
    head, backbone = model.retrieval_head, model.backbone
    assert head is not None
    with torch.no_grad():
        features = backbone.image_features(picture[None])

        def score(seen: torch.Tensor) -> float:
            return float(head.project_images(backbone.image_pass(seen, "reference"))[0, 2].double() @ vector.double())

        change = []
        for place in range(features.shape[1]):
            less, more = features.clone(), features.clone()
            less[0, place] *= 1 - 1e-2
            more[0, place] *= 1 + 1e-2
            change.append((score(more) - score(less)) / 2e-2)
    expected = np.maximum(np.array(change).reshape(4, 4), 0)
    found = ModelQueries(model).heat_map(picture, as_array(vector), "reference", 2)
    assert found.shape == expected.shape
    assert found.max() == pytest.approx(1)
    assert found == pytest.approx(expected / expected.max(), abs=0.03)
    assert all(parameter.grad is None for parameter in model.parameters())
