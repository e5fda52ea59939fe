"""Choosing an appearance on small pictures: measures against loops, what is chosen, kept, saved and read again."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion_pl import UniFashionModule
from unifashion_pl.inference import appearance as place
from unifashion_pl.inference.appearance import changed, choose_appearance, same_class, same_photo, similarities
from unifashion_pl.inference.encode import appearance_fingerprint


def photos(n: int, seed: int = 0) -> list[Image.Image]:
    """Coarse patterns, which an untrained tower tells apart."""
    draw = np.random.default_rng(seed)
    return [
        Image.fromarray(draw.integers(0, 256, (3, 3, 3), np.uint8)).resize((48, 40), Image.Resampling.NEAREST) for _ in range(n)
    ]


def test_measures_are_those_of_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    queries, images = torch.randn(4, 3, 5, generator=draw), torch.randn(6, 3, 5, generator=draw)
    by_hand = [[np.mean([max(float(q @ t) for t in image) for q in query]) for image in images] for query in queries]
    assert np.allclose(similarities(queries, images).numpy(), by_hand, atol=1e-5)
    scores = torch.tensor([[2.0, 1, 0], [0, 1, 1], [0, 1, 2], [1, 2, 3.0], [0, 1, 0], [0, 0, 1]])
    assert same_photo(scores) == pytest.approx(4 / 6)  # the second is equal to another, the fourth finds another
    among = torch.rand(14, 14, generator=draw)
    classes = ["a", "b", None, "a", "b", "b", "a"] * 2
    known = [i for i, one in enumerate(classes) if one]
    near = [sorted((j for j in known if j != i), key=lambda j, i=i: -float(among[i, j]))[:10] for i in known]
    expected = np.mean([[classes[j] == classes[i] for j in found] for i, found in zip(known, near)])
    assert same_class(among, classes) == pytest.approx(float(expected), abs=1e-6)
    assert same_class(among, [None] * 14) is None


def test_changes_are_drawn_and_small_pictures_stay_pictures() -> None:
    one = photos(1)[0]
    same, other = (changed(one, random.Random(seed)) for seed in (1, 1)), changed(one, random.Random(2))
    first, second = same
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != other.tobytes()
    assert 0.6 * 48 - 1 <= other.width <= 48
    assert changed(Image.new("L", (1, 1)), random.Random(0)).size == (1, 1)


def test_what_is_chosen_is_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "COPIES", 2)
    model = UniFashionModule.from_pretrained("tiny", heads=("retrieval",))
    asked = photos(12, 1)
    choice = choose_appearance(model, photos(20), asked, ["x", "y", None] * 4, width=8)
    chosen, own = choice.chosen, model.backbone.appearance
    assert (choice.photos, choice.copies) == (12, 24)
    assert choice.tokens.weight == 0
    assert len(choice.tried) == len(place.WEIGHTS) * len(place.REACHES)
    assert own is not None
    assert float(own.weight) == chosen.weight > 0
    assert chosen.same_photo > choice.tokens.same_photo
    assert f"appearance: weight {chosen.weight:g}" in str(choice)
    read = UniFashionModule.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert appearance_fingerprint(read) == appearance_fingerprint(model)
    assert read.backbone.appearance is not None
    assert float(read.backbone.appearance.reach) == pytest.approx(chosen.reach)
    hits = read.gallery(asked).search(image=changed(asked[3], random.Random(5)), k=1)
    assert hits[0].parts.keys() == {"image", "appearance"}


def test_where_nothing_more_is_found_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "changed", lambda photo, rng: photo)  # which query tokens find already
    model = UniFashionModule.from_pretrained("tiny", heads=("retrieval",))
    choice = choose_appearance(model, photos(5), photos(6, 1), width=4)
    assert model.backbone.appearance is None
    assert choice.chosen.weight == 0
    assert str(choice).startswith("appearance: none")


def test_what_cannot_be_chosen_on_is_refused() -> None:
    model = UniFashionModule.from_pretrained("tiny", heads=("retrieval",))
    with pytest.raises(ValueError, match="3 photos for validation but 2 categories"):
        choose_appearance(model, photos(3), photos(3), ["a", "b"])
    with pytest.raises(ValueError, match="two of each"):
        choose_appearance(model, photos(1), photos(3))
