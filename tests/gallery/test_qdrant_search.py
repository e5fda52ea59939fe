"""Searches of a collection are those of the index in the process: ids in their order, scores, parts, columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from galleries import pictures
from qdrants import local, pushed, shop

from unifashion_pl.gallery import Gallery, Hit
from unifashion_pl.gallery import qdrant_search as place
from unifashion_pl.gallery.qdrant import Collection
from unifashion_pl.gallery.qdrant_search import QdrantGallery
from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.module import UniFashionModule

PIXELS = pictures(40)


@pytest.fixture(scope="module")
def both(model: UniFashionModule, tmp_path_factory: pytest.TempPathFactory) -> tuple[Gallery, QdrantGallery]:
    gallery, collection = shop(model), Collection(local(), "shop")
    pushed(gallery, tmp_path_factory.mktemp("shop") / "index", collection)
    return gallery, QdrantGallery(QueryEncoder(lambda: model), collection)


def assert_same(ours: list[Hit], theirs: list[Hit]) -> None:
    assert [hit.id for hit in ours] == [hit.id for hit in theirs]
    for one, two in zip(ours, theirs):
        assert one.score == pytest.approx(two.score, abs=1e-6)
        assert one.parts == pytest.approx(two.parts, abs=1e-6)
        assert (one.token, one.caption, one.image, one.product) == (two.token, two.caption, two.image, two.product)
        assert one.columns == two.columns


WISHES: list[dict[str, Any]] = [
    {"text": "a red dress"},
    {"image": PIXELS[38]},
    {"text": "is blue", "image": PIXELS[39]},
    {"text": "red", "caption_weight": 0.0},
    {"text": "red", "caption_weight": -0.5},
    {"text": "red", "exclude": ["item 03", "item 04", "not there"]},
    {"text": "blue", "like": [PIXELS[37], PIXELS[38]]},
    {"like": [PIXELS[37]], "unlike": [PIXELS[36], PIXELS[35]], "unlike_weight": 0.7},
    {"text": "red", "image": PIXELS[2], "unlike": PIXELS[1], "where": "price > 50"},
    {"image": PIXELS[2], "where": "not (price < 100 or title == 'dress')"},
    {"text": "red", "group": "product"},
    {"image": PIXELS[2], "group": "title", "k": 30},
    {"text": "blue", "group": "price", "where": "`list price` >= 4 and 'ilk' in title", "k": 5},
    {"text": "red", "where": "price == 99999"},
    {"image": PIXELS[2], "k": 100},
]


@pytest.mark.parametrize("asked", WISHES, ids=lambda asked: " ".join(asked))
def test_hits_are_those_of_the_process(both: tuple[Gallery, QdrantGallery], asked: dict[str, Any]) -> None:
    gallery, there = both
    assert_same(there.search(**{"k": 7, **asked}), gallery.search(**{"k": 7, **asked}))


@pytest.mark.parametrize(
    "asked",
    [{"image": PIXELS[2], "k": 1}, {"text": "red", "group": "product"}, {"image": PIXELS[2], "group": "title", "k": 30}],
)
def test_ties_and_groups_ask_for_further_candidates(
    both: tuple[Gallery, QdrantGallery], asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "CANDIDATES", 1)
    monkeypatch.setattr(place, "EACH", 1)
    gallery, there = both
    limits = []
    query = QdrantGallery._query
    monkeypatch.setattr(QdrantGallery, "_query", lambda self, *given: limits.append(given[2]) or query(self, *given))
    assert_same(there.search(**{"k": 7, **asked}), gallery.search(**{"k": 7, **asked}))
    assert len(limits) > 1


def test_many_at_once_and_ready_vectors(both: tuple[Gallery, QdrantGallery]) -> None:
    gallery, there = both
    texts = ["red", "a blue dress", "shirt"]
    for ours, theirs in zip(there.search_many(texts, k=4), gallery.search_many(texts, k=4)):
        assert_same(ours, theirs)
    vector = torch.nn.functional.normalize(torch.randn(8, generator=torch.Generator().manual_seed(1)), dim=0)
    found = there.by_vector(vector, "target", k=4, where="price < 200")
    assert_same(found, gallery.by_vector(vector, "target", k=4, where="price < 200"))


@pytest.mark.parametrize("where", [None, "price > 50 or price == None"])
@pytest.mark.parametrize("column", ["title", "product", "price", "list price", 'odd "name".x', "caption"])
def test_facets_are_those_of_the_process(both: tuple[Gallery, QdrantGallery], column: str, where: str | None) -> None:
    gallery, there = both
    assert there.columns == gallery.columns
    for most in (3, 100):
        assert list(there.facets(column, where, most).items()) == list(gallery.facets(column, where, most).items())


def test_galleries_of_one_kind_of_search_and_without_captions(model: UniFashionModule, tmp_path: Path) -> None:
    for query_set, asked in (("reference", {"text": "red"}), ("target", {"text": "red", "image": PIXELS[0]})):
        gallery, collection = shop(model, 12, query_set, captions=False), Collection(local(), query_set)
        pushed(gallery, tmp_path / query_set, collection)
        there = QdrantGallery(QueryEncoder(lambda: model), collection)
        assert_same(there.search(**asked), gallery.search(**asked))
    with pytest.raises(RuntimeError, match="made with target queries and cannot search by text or by image"):
        there.search("red")


def test_what_cannot_be_asked_is_said(both: tuple[Gallery, QdrantGallery]) -> None:
    for options, said in (
        ({"words": 0.5}, "words are searched for in an index in the process alone"),
        ({"where": "title < 'm'"}, "which Qdrant cannot be asked"),
        ({"where": "colour == 1"}, "unknown column 'colour'"),
        ({"group": "colour"}, "unknown column 'colour'"),
        ({"rerank": 2}, "the gallery has no path of"),
    ):
        with pytest.raises(ValueError, match=said):
            both[1].search("red", **options)
    with pytest.raises(ValueError, match="unknown column 'colour'"):
        both[1].facets("colour")
