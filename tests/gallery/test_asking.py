"""What a search may be asked, on a real small model: many at once, examples, filters, groups, words, the matching head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from galleries import N, make_model, pictures, same
from PIL import Image

from unifashion_pl.gallery import Gallery
from unifashion_pl.gallery import gallery_of as build
from unifashion_pl.gallery.asking import SearchOptions
from unifashion_pl.module import UniFashionModule

COLUMNS = [{"price": n * 10, "kind": "dress" if n % 2 else "shirt", "notes": "of silk" if n == 4 else None} for n in range(N)]


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return make_model()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for i, picture in enumerate(pictures()):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(N)]


@pytest.fixture(scope="module")
def gallery(model: UniFashionModule, paths: list[Path]) -> Gallery:
    products = ["p0", "p0", "p0", "p1", "p1", None, None, "p2", "p2"]
    return build(model, paths, ids=[f"i{n}" for n in range(N)], columns=COLUMNS, products=products)


def test_many_searches_are_those_of_each(gallery: Gallery) -> None:
    texts = ["a red dress", "a blue shirt", "black"]
    for hits, text in zip(gallery.search_many(texts, k=4, where="price > 0"), texts, strict=True):
        assert same(hits, gallery.search(text, k=4, where="price > 0"))
    for hits, picture in zip(gallery.search_many(images=pictures(3)), pictures(3), strict=True):
        assert same(hits, gallery.search(image=picture))
    for hits, text in zip(gallery.search_many(texts, pictures()[0]), texts, strict=True):
        assert same(hits, gallery.search(text, pictures()[0]))
    with pytest.raises(ValueError, match="3 of texts, 2 of images"):
        gallery.search_many(texts, pictures(2))
    with pytest.raises(ValueError, match="the list of texts is empty"):
        gallery.search_many([])


def test_filters_facets_and_columns(gallery: Gallery, model: UniFashionModule, paths: list[Path]) -> None:
    hits = gallery.search("a red dress", where="price >= 30 and kind == 'dress'", k=9)
    assert {hit.id for hit in hits} == {"i3", "i5", "i7"}
    assert {hit.columns["price"] for hit in hits} == {30, 50, 70}
    assert {hit.image for hit in hits} == {str(paths[n]) for n in (3, 5, 7)}
    assert gallery.facets("kind") == {"shirt": 5, "dress": 4}
    assert gallery.columns == {"price": "number", "kind": "text", "notes": "text"}
    assert gallery.search("a red dress", where="price > 1000") == []
    everything = gallery.search("a red dress", k=9)
    assert same([hit for hit in everything if hit.id in {"i3", "i5", "i7"}], hits)
    with pytest.raises(ValueError, match="unknown column 'colour'; known are id, product, caption, price, kind, notes"):
        gallery.search("a red dress", where="colour == 'red'")
    with pytest.raises(ValueError, match="'price' of 'x' holds .*, expected a text or a number"):
        build(model, pictures(1), ids=["x"], columns=[{"price": [1]}])  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="9 images but 1 columns"):
        build(model, pictures(), columns=[{}])


def test_one_hit_a_product_is_its_best_view(gallery: Gallery) -> None:
    every = gallery.search("a red dress", k=9)
    best = {hit.product: hit.id for hit in reversed(every)}
    grouped = gallery.search("a red dress", k=9, group="product")
    assert [hit.id for hit in grouped] == [hit.id for hit in every if best[hit.product] == hit.id]
    assert {hit.product for hit in grouped} == {"p0", "p1", "i5", "i6", "p2"}
    assert len(gallery.search("a red dress", k=9, group="kind")) == 2


def test_examples_wanted_and_not(gallery: Gallery) -> None:
    shots = pictures()
    each = [{hit.id: hit.score for hit in gallery.search(image=shots[n], k=9)} for n in (1, 2, 3)]
    hits = gallery.search(like=shots[[1, 2]], unlike=shots[3], unlike_weight=0.25, k=9)
    for hit in hits:
        assert hit.image_score == pytest.approx((each[0][hit.id] + each[1][hit.id]) / 2, abs=1e-6)
        assert hit.parts["unlike"] == pytest.approx(each[2][hit.id], abs=1e-6)
        assert hit.score == pytest.approx(hit.image_score - 0.25 * hit.parts["unlike"], abs=1e-6)
    assert "examples that are not wanted" in hits[0].explanation
    text = {hit.id: hit.score for hit in gallery.search("red", k=9)}
    for hit in gallery.search("red", like=shots[1], k=9):
        assert hit.image_score == pytest.approx((text[hit.id] + each[0][hit.id]) / 2, abs=1e-6)
    assert gallery.search(like=shots[4], k=1)[0].id == "i4"


def test_words_find_what_vectors_do_not(gallery: Gallery) -> None:
    hits = gallery.search("a dress of silk", words=100.0, k=9)
    assert hits[0].id == "i4"
    assert hits[0].parts["words"] == 1.0
    assert hits[0].score == pytest.approx(hits[0].image_score + 100, abs=1e-4)
    assert "words 1.000" in hits[0].explanation
    assert "words" not in gallery.search("a dress of silk")[0].parts


def test_the_matching_head_ranks_the_best(gallery: Gallery, model: UniFashionModule, paths: list[Path]) -> None:
    plain = gallery.search("a red dress", k=9)
    hits = gallery.search("a red dress", k=9, rerank=4)
    assert {hit.id for hit in hits[:4]} == {hit.id for hit in plain[:4]}
    assert [hit.id for hit in hits[4:]] == [hit.id for hit in plain[4:]]
    pixels = torch.stack([torch.as_tensor(pictures()[int(hit.id[1:])]) for hit in hits[:4]])
    head, backbone = model.retrieval_head, model.backbone
    assert head is not None
    with torch.no_grad():
        logits = head.match(backbone, backbone.image_features(pixels), backbone.tokenize(["a red dress"] * 4))
    chance = logits.softmax(-1)[:, 1].tolist()
    assert [hit.parts["match"] for hit in hits[:4]] == pytest.approx(chance, abs=1e-5)
    assert [hit.score for hit in hits[:4]] == sorted((hit.score for hit in hits[:4]), reverse=True)
    assert len(gallery.search("a red dress", k=2, rerank=5)) == 2
    with pytest.raises(ValueError, match="give a text"):
        gallery.search(image=paths[0], rerank=2)
    with pytest.raises(ValueError, match="the gallery has no path of "):
        build(model, pictures()).search("red", rerank=2)


def test_options_that_cannot_be_meant_are_sentences(gallery: Gallery) -> None:
    for wrong, said in (
        ({"words": float("nan")}, "words is nan, expected a weight from -1,000 to 1,000"),
        ({"words": -1001}, "words is -1001, expected a weight from -1,000 to 1,000"),
        ({"caption_weight": -5e3}, "caption_weight is -5000, expected a weight"),
        ({"unlike_weight": 1e308}, r"unlike_weight is 1e\+308, expected a weight"),
        ({"appearance": "much"}, "appearance is 'much' .*expected a weight"),
        ({"unlike_weight": "1"}, "unlike_weight is '1'"),
        ({"rerank": -2}, "rerank is -2"),
        ({"rerank": 1.5}, "rerank is 1.5"),
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"group": "colour"}, "unknown column 'colour'"),
        ({"where": 3}, "the filter is 3"),
    ):
        with pytest.raises(ValueError, match=said):
            gallery.search("red", **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="nonsense"):
        gallery.search("red", nonsense=1)
    assert SearchOptions(k=3).k == 3
