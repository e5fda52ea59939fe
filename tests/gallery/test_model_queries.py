"""What a search asks the whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from galleries import make_model, pictures
from PIL import Image

from unifashion_pl.gallery.model_queries import ModelQueries
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
