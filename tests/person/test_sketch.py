from __future__ import annotations

import io
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from unifashion_pl.person.sketch import garment_mask, garment_sketch, plausible
from unifashion_pl.wardrobe.drawing import render_flat
from unifashion_pl.wardrobe.products import make_product


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_masks_of_drawn_garments_are_theirs() -> None:
    fits = []
    for number in range(12):
        photo, truth, _ = render_flat(make_product(0, number), 192, 256, random.Random(number), random.Random(number))
        found = garment_mask(photo)
        assert found.shape == (256, 192)
        fits.append(overlap(found, truth > 0.5))
    assert np.median(fits) > 0.97
    assert np.mean(np.array(fits) > 0.9) >= 0.7


def test_an_uneven_backdrop_is_followed_and_a_hole_in_the_garment_filled() -> None:
    y, x = np.mgrid[0:300, 0:200]
    backdrop = np.stack([200 + x / 8, 190 + y / 10, 180 + (x + y) / 20], -1).astype(np.uint8)
    photo = Image.fromarray(backdrop)
    draw = ImageDraw.Draw(photo)
    draw.ellipse((40, 60, 160, 240), fill=(150, 30, 40))
    draw.ellipse((90, 140, 110, 160), fill=(215, 205, 190))
    truth = np.zeros((300, 200), np.uint8)
    disc = Image.fromarray(truth)
    ImageDraw.Draw(disc).ellipse((40, 60, 160, 240), fill=255)
    assert overlap(garment_mask(photo), np.asarray(disc) > 0) > 0.97


def test_an_empty_backdrop_has_no_plausible_mask() -> None:
    assert not plausible(garment_mask(Image.new("RGB", (100, 120), (210, 210, 205))))
    assert not plausible(np.ones((10, 10), bool))


def test_a_sketch_is_light_lines_on_black_along_the_edges() -> None:
    photo = Image.new("RGB", (200, 240), (235, 235, 230))
    draw = ImageDraw.Draw(photo)
    draw.rectangle((50, 50, 149, 189), fill=(40, 60, 140))
    draw.rectangle((50, 110, 149, 129), fill=(240, 220, 60))
    sketch = garment_sketch(photo)
    pixels = np.asarray(sketch)
    assert (sketch.mode, sketch.size) == ("L", (200, 240))
    assert 0.002 < (pixels >= 128).mean() < 0.1
    assert not pixels[:45].any()
    assert not pixels[60:100, 60:140].any()
    for row in (50, 110, 130, 189):
        assert (pixels[row - 3 : row + 4, 60:140].max(0) >= 128).mean() > 0.9, row
    thickness = (pixels[:, 100] >= 128).sum()
    assert 4 <= thickness <= 12


def test_detail_draws_weaker_edges() -> None:
    photo = Image.new("RGB", (200, 240), (235, 235, 230))
    draw = ImageDraw.Draw(photo)
    draw.rectangle((40, 40, 159, 199), fill=(90, 90, 200))
    draw.rectangle((80, 80, 119, 159), fill=(100, 100, 206))
    few, many = (np.asarray(garment_sketch(photo, detail=d)) for d in (0.5, 3.0))
    assert not few[100:140, 70:130].any()
    assert many[100:140, 70:130].any()


def test_lines_of_drawn_garments_are_their_strokes() -> None:
    """Strokes that the drawing made, two pixels or nearer."""
    scores = []
    for number in range(12):
        photo, truth, strokes = render_flat(make_product(0, number), 192, 256, random.Random(number), random.Random(number))
        drawn, true = np.asarray(garment_sketch(photo, truth > 0.5)) >= 128, strokes > 0.5
        near_drawn, near_true = (ndimage.maximum_filter(lines, 5) for lines in (drawn, true))
        precision, recall = (drawn & near_true).sum() / drawn.sum(), (true & near_drawn).sum() / true.sum()
        scores.append(2 * precision * recall / (precision + recall))
    assert np.mean(scores) > 0.8


@pytest.mark.real_data
def test_most_photos_of_real_garments_get_a_plausible_mask() -> None:
    named = os.environ.get("UNIFASHION_SHARED_DATA")
    if not named:
        pytest.skip("UNIFASHION_SHARED_DATA names no folder with clothing/clothing-00.tar")
    with tarfile.open(Path(named) / "clothing/clothing-00.tar") as tar:
        members = [m for m in tar.getmembers() if m.isfile()]
        chosen = random.Random(0).sample(members, 60)
        photos = [Image.open(io.BytesIO(tar.extractfile(m).read())).convert("RGB") for m in chosen]  # type: ignore[union-attr]
    fine = [plausible(garment_mask(photo)) for photo in photos]
    assert np.mean(fine) > 0.75
    strokes = [(np.asarray(garment_sketch(photo)) >= 128).mean() for photo, good in zip(photos, fine) if good]
    assert np.mean([0.002 <= share <= 0.3 for share in strokes]) == 1
