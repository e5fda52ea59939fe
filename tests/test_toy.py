"""The shipped toy tells photos from the drawings that it knows, and says once that it knows no photos."""

from __future__ import annotations

import io
import os
import random
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unifashion_pl import toy
from unifashion_pl.inference.requests import pixels_for
from unifashion_pl.weights.checkpoint import from_pretrained


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 72, 3), np.uint8).astype(np.uint8))


def test_grain_and_plain_white_are_no_drawings() -> None:
    assert not toy.is_drawing(noise())
    white = Image.new("RGB", (90, 120), "white")
    white.paste(noise().crop((0, 0, 40, 60)), (20, 30))
    assert not toy.is_drawing(white)


@pytest.mark.real_data
def test_real_photos_are_told_from_drawings() -> None:
    folder = os.environ.get("UNIFASHION_SHARED_DATA")
    if folder is None:
        pytest.skip("UNIFASHION_SHARED_DATA names no folder")
    with tarfile.open(Path(folder) / "clothing" / "clothing-00.tar") as tar:
        members = random.Random(0).sample(tar.getmembers(), 100)
        photos = [Image.open(io.BytesIO(tar.extractfile(m).read())) for m in members]  # type: ignore[union-attr]
    assert sum(map(toy.is_drawing, photos)) <= 4


def test_it_is_said_once_and_by_the_toy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from unifashion_pl import UniFashionModule

    monkeypatch.setattr(toy, "_told", set())
    model = from_pretrained(UniFashionModule, "tiny")
    assert model.toy
    with pytest.warns(toy.ToyWarning, match="knows drawings"):
        model.caption(noise(), num_beams=1, max_new_tokens=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels_for(model, [noise(1)])
        toy._told.clear()
        model.toy = False
        pixels_for(model, [noise(2)])


def test_a_search_tells_by_the_pictures_that_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "_told", set())
    noise().save(tmp_path / "photo.png")
    (tmp_path / "none.png").write_text("no picture")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toy.tell_of_hits("another", [str(tmp_path / "photo.png")])
        toy.tell_of_hits(None, [None, str(tmp_path / "none.png"), str(tmp_path / "gone.png")])
    with pytest.warns(toy.ToyWarning, match="knows drawings"):
        toy.tell_of_hits("tiny", [str(tmp_path / "photo.png")])
