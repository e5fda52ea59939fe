"""The appearance beside query tokens, in memory, saved, added to, on a server: by hand from the model's own vectors, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from galleries import N, make_model, pictures, same, with_appearance
from qdrants import local, pushed

from unifashion_pl.gallery import Gallery, gallery_of, store
from unifashion_pl.gallery.qdrant import Collection
from unifashion_pl.gallery.qdrant_search import QdrantGallery
from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.inference.encode import appearance_fingerprint, encode_image_sets
from unifashion_pl.module import UniFashionModule


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return with_appearance(make_model())


@pytest.fixture(scope="module")
def gallery(model: UniFashionModule) -> Gallery:
    return gallery_of(model, pictures(), ids=[f"i{n}" for n in range(N)], captions=["red"] + [""] * (N - 1))


def darker(n: int) -> torch.Tensor:
    return (pictures()[n].float() * 0.8).byte()


def by_hand(model: UniFashionModule, picture: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the mean of best products, and the evidence of the appearance."""
    asked, there = (encode_image_sets(model, one, ("reference",), appearance=True) for one in (picture[None], pictures()))
    tokens = torch.einsum("qe,nte->nqt", asked["reference"][0], there["reference"]).amax(2).mean(1)
    looks = there["appearance"][:, 0] @ asked["appearance"][0, 0]
    return tokens.numpy(), np.exp((looks.numpy() - 1) / 0.2)


def test_a_search_by_image_counts_both(gallery: Gallery, model: UniFashionModule) -> None:
    image, looks = by_hand(model, darker(4))
    hits = gallery.search(image=darker(4), k=N)
    for hit in hits:
        n = int(hit.id[1:])
        assert hit.parts == pytest.approx({"image": image[n], "appearance": looks[n]}, abs=1e-5)
        assert hit.score == pytest.approx(image[n] + 2 * looks[n], abs=1e-5)
    best = gallery.search(image=pictures()[4])[0]
    assert best.id == "i4"
    assert best.explanation.endswith("(all query tokens), appearance 1.000")
    plain = gallery.search(image=darker(4), k=N, appearance=0)
    assert [set(hit.parts) for hit in plain] == [{"image"}] * N
    doubled = {hit.id: hit.score for hit in gallery.search(image=darker(4), k=N, appearance=4)}
    assert doubled == pytest.approx({f"i{n}": image[n] + 4 * looks[n] for n in range(N)}, abs=1e-5)


def test_examples_count_by_their_mean_and_texts_as_before(gallery: Gallery, model: UniFashionModule) -> None:
    found = {hit.id: hit.parts for hit in gallery.search(image=darker(1), like=[darker(2)], unlike=darker(3), k=N)}
    one, two = by_hand(model, darker(1)), by_hand(model, darker(2))
    assert {id: parts["appearance"] for id, parts in found.items()} == pytest.approx(
        {f"i{n}": (one[1][n] + two[1][n]) / 2 for n in range(N)}, abs=1e-5
    )
    assert {frozenset(parts) for parts in found.values()} == {frozenset(("image", "appearance", "unlike"))}
    assert all("appearance" not in hit.parts for hit in gallery.search("red"))
    assert all("appearance" not in hit.parts for hit in gallery.search("red", darker(1)))
    composed = gallery.search("red", darker(1), appearance=1.5, k=N)
    assert {hit.id: hit.parts["appearance"] for hit in composed} == pytest.approx(
        {f"i{n}": one[1][n] for n in range(N)}, abs=1e-5
    )
    many = gallery.search_many(images=[darker(1), darker(2)])
    assert all(same(hits, gallery.search(image=darker(n))) for n, hits in zip((1, 2), many))
    both = gallery.search_many(["red", "blue"], darker(1), appearance=1.0)
    assert same(both[1], gallery.search("blue", darker(1), appearance=1.0))


@pytest.mark.parametrize("storage", ["fp32", "fp16", "int8"])
def test_saved_changed_and_read_again(model: UniFashionModule, tmp_path: Path, storage: str) -> None:
    made = gallery_of(model, pictures(6), ids=list("abcdef"), storage=storage, pool=2, coarse=1)
    made.save(tmp_path / "index")
    read = Gallery.load(tmp_path / "index", model)
    assert same(read.search(image=darker(2)), made.search(image=darker(2)))
    read.remove(["a"]).add(pictures()[6:8], ids=["g", "h"]).save(tmp_path / "index")
    stored = store.check(tmp_path / "index")
    sets = [segment.sets["appearance"] for segment in stored.segments.values()]
    assert stored.settings.appearance == appearance_fingerprint(model)
    assert {one.coded.codes.shape[1:] for one in sets} == {(1, 6)}
    assert all(one.coarse is None for one in sets)
    again = Gallery.load(tmp_path / "index", model).search(image=pictures()[6], k=7)
    assert again[0].id == "g"
    assert {hit.id for hit in again} == set("bcdefgh")
    assert again[0].parts["appearance"] == pytest.approx(1, abs=0.05)


def test_an_index_without_is_as_before_and_one_of_another_is_refused(model: UniFashionModule, tmp_path: Path) -> None:
    old = gallery_of(make_model(), pictures(), ids=[f"i{n}" for n in range(N)])
    old.save(tmp_path / "old")
    read = Gallery.load(tmp_path / "old", model)  # the appearance was chosen after the index was built
    assert same(read.search(image=darker(1)), old.search(image=darker(1)))
    assert set(read.add(pictures()[:1], ids=["more"]).search(image=darker(1))[0].parts) == {"image"}
    with pytest.raises(RuntimeError, match="has no vectors of the appearance"):
        read.search(image=darker(1), appearance=1)
    gallery_of(model, pictures()).save(tmp_path / "new")
    plain = Gallery.load(tmp_path / "new", make_model())
    assert set(plain.search(image=darker(1))[0].parts) == {"image"}
    with pytest.raises(RuntimeError, match="this model has no appearance"):
        plain.search(image=darker(1), appearance=1)
    other = with_appearance(make_model())
    assert other.backbone.appearance is not None
    other.backbone.appearance.projection.mul_(2)
    changed = Gallery.load(tmp_path / "new", other)
    for ask in (lambda: changed.search(image=darker(1)), lambda: changed.add(pictures()[:1], ids=["x"])):
        with pytest.raises(ValueError, match="made by another projection"):
            ask()
    assert changed.search("red")
    assert changed.search(image=darker(1), appearance=0)
    gone = with_appearance(make_model(), weight=0.0)
    assert set(Gallery.load(tmp_path / "new", gone).search(image=darker(1))[0].parts) == {"image"}


WISHES: list[dict[str, Any]] = [
    {"image": darker(3)},
    {"image": darker(3), "appearance": 0.3, "exclude": ["i3"]},
    {"like": [darker(3), darker(5)], "unlike": darker(2)},
    {"text": "red", "image": darker(3), "appearance": 1.0},
    {"text": "red", "like": darker(1)},
    {"text": "red", "image": darker(3)},
]


def test_a_server_answers_alike(gallery: Gallery, model: UniFashionModule, tmp_path: Path) -> None:
    collection = Collection(local(), "looks")
    pushed(gallery, tmp_path / "index", collection)
    there = QdrantGallery(QueryEncoder(lambda: model), collection)
    for asked in WISHES:
        ours, theirs = gallery.search(**asked), there.search(**asked)
        assert [hit.id for hit in ours] == [hit.id for hit in theirs]
        for one, two in zip(ours, theirs):
            assert one.score == pytest.approx(two.score, abs=1e-5)
            assert one.parts == pytest.approx(two.parts, abs=1e-5)
    with pytest.raises(ValueError, match="appearance .* against None"):
        pushed(gallery_of(make_model(), pictures(), ids=gallery.ids), tmp_path / "other", collection)
