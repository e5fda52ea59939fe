"""What is searched: drawn garments, or an index with its pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from unifashion_pl.demo.answers import Answers
from unifashion_pl.demo.catalogue import garments, indexed, wardrobe
from unifashion_pl.module import UniFashionModule
from unifashion_pl.wardrobe.catalogue import SIZES, fiq_parts, pair_products


def test_drawn_garments_are_held_out_and_each_has_a_neighbour_that_differs_little() -> None:
    plan = garments(8, 5)
    assert len(plan) == 3 * 8 + 5
    trained = {p for part in fiq_parts(SIZES["demo"], 0) if part.split == "train" for p in part.products}
    families = [product for id, (product, _) in plan.items() if id.startswith("B0")]
    assert not trained & set(families)
    assert [product for id, (product, _) in plan.items() if id.startswith("W")] == pair_products(0, "validation", 5)


def test_progress_is_told_and_pictures_are_those_that_were_embedded(answers: Answers) -> None:
    told: list[tuple[int, int]] = []
    made = wardrobe(answers.models.main.model, lambda done, of: told.append((done, of)), 1, 1)
    assert told == [(i, 4) for i in range(1, 5)]
    assert len(made.asking) == len(made.drawn) == 4
    id, picture = next(iter(made.drawn.items()))
    assert made.picture(id) is picture
    assert made.asking.search(image=picture, k=1)[0].id == id
    assert set(made.shelf) == set(made.drawn)
    with pytest.raises(KeyError, match="'nothing' is not among the 4"):
        made.picture("nothing")


def test_an_index_gives_pictures_by_their_ids_and_none_where_they_are_gone(tmp_path: Path, retriever: Path) -> None:
    model = UniFashionModule.from_pretrained(retriever)
    paths = [tmp_path / f"{colour}.png" for colour in ("red", "blue")]
    for path in paths:
        Image.new("RGB", (40, 40), path.stem).save(path)
    model.gallery(paths, ids=["r", "b"], captions=["a red one", ""]).save(tmp_path / "index")
    made = indexed(tmp_path / "index", model)
    assert made.name.startswith("2 images of the index")
    assert made.shelf == {"r": "a red one", "b": "b"}
    found = made.picture("b")
    assert found is not None
    assert found.getpixel((1, 1)) == (0, 0, 255)
    paths[1].unlink()
    assert made.picture("b") is None
    with pytest.raises(KeyError, match="'x' is not in the index"):
        made.picture("x")


def test_an_index_of_another_model_is_refused(tmp_path: Path, retriever: Path, answers: Answers) -> None:
    model = UniFashionModule.from_pretrained(retriever)
    model.gallery([Image.new("RGB", (40, 40))], ids=["a"]).save(tmp_path / "index")
    with pytest.raises(ValueError, match="another model"):
        indexed(tmp_path / "index", answers.models.main.model)
