"""Filling a collection: made, filled in batches, gone on with, verified; what belongs elsewhere is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import make_model, pictures
from qdrants import N, local, pushed, shop

from unifashion_pl.gallery import Gallery
from unifashion_pl.gallery import qdrant as place
from unifashion_pl.gallery.qdrant import Collection, Pushed, connect, point_id
from unifashion_pl.gallery.qdrant_search import QdrantGallery
from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.module import UniFashionModule
from unifashion_pl.reading import FormatError


@pytest.fixture
def collection() -> Collection:
    return Collection(local(), "shop", "http://somewhere:6333")


def test_points_have_vectors_and_all_that_is_known(model: UniFashionModule, tmp_path: Path, collection: Collection) -> None:
    gallery = shop(model)
    assert pushed(gallery, tmp_path / "index", collection) == Pushed(N, 0, 0, N, 32)
    (point,) = collection.points([point_id("item 04")], ["reference", "target", "captions"])
    for name, tokens in gallery.tokens.items():
        np.testing.assert_allclose(point.vector[name], tokens[4], atol=1e-6)
    assert gallery.caption_vectors is not None
    np.testing.assert_allclose(point.vector["captions"], gallery.caption_vectors[4], atol=1e-6)
    assert point.payload.pop("digest")
    assert point.payload == {
        "id": "item 04",
        "caption": "a red",
        "product": "p1",
        "columns": {"price": 40, "column_2": 4, "column_3": "v1"},
    }
    (bare,) = collection.points([point_id("item 03")], ["reference", "captions"])
    assert "captions" not in bare.vector
    assert "price" not in bare.payload["columns"]
    params = collection.client.get_collection("shop").config.params.vectors
    assert params["reference"].multivector_config.comparator == "max_sim"
    assert params["reference"].hnsw_config.m == 0


def test_a_push_that_was_killed_goes_on_and_sends_no_image_twice(
    model: UniFashionModule, tmp_path: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "BATCH", 8)
    send, sent = place._send, []

    def failing(client: Any, name: str, made: Any) -> None:
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(len(made))
        send(client, name, made)

    monkeypatch.setattr(place, "_send", failing)
    with pytest.raises(KeyboardInterrupt):
        pushed(shop(model), tmp_path / "index", collection)
    assert collection.count() == 16
    with pytest.raises(ValueError, match="its first push was interrupted"):
        QdrantGallery(QueryEncoder(lambda: model), collection)
    monkeypatch.setattr(place, "_send", send)
    assert pushed(shop(model), tmp_path / "index", collection) == Pushed(N - 16, 0, 0, N, 32)
    assert pushed(shop(model), tmp_path / "index", collection) == Pushed(0, 0, 0, N, 32)


def test_a_second_push_brings_what_changed(model: UniFashionModule, tmp_path: Path, collection: Collection) -> None:
    gallery = shop(model)
    pushed(gallery, tmp_path / "index", collection)
    gallery.remove(["item 00", "item 07"])
    gallery.add(pictures(40)[38:40], ids=["item 07", "new"], columns=[{"price": 3, "size": "M"}, {}])
    assert pushed(gallery, tmp_path / "index", collection) == Pushed(1, 1, 1, N, 32)
    assert collection.facts().columns["size"] == ("size", "text")
    there = QdrantGallery(QueryEncoder(lambda: model), collection)
    assert [hit.id for hit in there.search("red", where="size == 'M'")] == ["item 07"]
    assert not there.search("red", where="id == 'item 00'")


def test_fp16_int8_and_pooled_indexes_are_pushed_as_they_are_kept(model: UniFashionModule, tmp_path: Path) -> None:
    for name, kept in {"half": {"storage": "fp16"}, "codes": {"storage": "int8"}, "pooled": {"pool": 2}}.items():
        collection = Collection(local(), name)
        gallery = shop(model, 12, **kept)
        pushed(gallery, tmp_path / name, collection)
        there = QdrantGallery(QueryEncoder(lambda: model), collection)
        for one, two in zip(there.search("red", k=12), gallery.search("red", k=12)):
            assert (one.id, one.score) == (two.id, pytest.approx(two.score, abs=1e-6))


def test_what_does_not_belong_there_is_refused(model: UniFashionModule, tmp_path: Path, collection: Collection) -> None:
    with pytest.raises(FileNotFoundError, match=r"http://somewhere:6333 has no collection 'shop' \(it has: none\)"):
        collection.facts()
    pushed(shop(model, 12), tmp_path / "index", collection)
    other = make_model(seed=3)
    with pytest.raises(ValueError, match=r"holds other vectors than this index \(model .* against"):
        pushed(shop(other, 12), tmp_path / "other", collection)
    with pytest.raises(ValueError, match=r"\(pool None against 2, tokens 4 against 2\)"):
        pushed(shop(model, 12, pool=2), tmp_path / "pooled", collection)
    with pytest.raises(ValueError, match="shards are chosen for a new one"):
        pushed(shop(model, 12), tmp_path / "index", collection, shards=2)
    gallery = Gallery(model)
    gallery.add(pictures(2), ids=["x", "y"])
    with pytest.raises(ValueError, match=r"holds 12 images of which this index has none.* by --anew"):
        pushed(gallery, tmp_path / "strangers", collection)
    assert collection.count() == 12
    assert pushed(gallery, tmp_path / "strangers", collection, anew=True) == Pushed(2, 0, 12, 2, 2)
    with pytest.raises(ValueError, match="was made by another model"):
        QdrantGallery(QueryEncoder(lambda: other), collection)
    with pytest.raises(ValueError, match="the index is empty"):
        pushed(Gallery(model), tmp_path / "empty", collection)
    collection.client.create_collection("foreign", vectors_config={})
    with pytest.raises(FormatError, match="'foreign' of .* was not made by `unifashion index push`"):
        pushed(shop(model, 12), tmp_path / "index", Collection(collection.client, "foreign", "http://x"))


def test_points_that_another_writer_changed_are_found(
    model: UniFashionModule, tmp_path: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = shop(model, 12)
    pushed(gallery, tmp_path / "index", collection)
    collection.client.set_payload("shop", {"caption": "other"}, points=[point_id("item 03")])
    with pytest.raises(RuntimeError, match="holds 'item 03' otherwise than it was sent"):
        pushed(gallery, tmp_path / "index", collection)
    monkeypatch.setattr(Collection, "count", lambda self: 13)
    with pytest.raises(RuntimeError, match="has 13 points, the index 12 images"):
        pushed(gallery, tmp_path / "index", collection)


def test_a_server_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("qdrant_client", reason="the extra qdrant; it is in the extra test")
    with pytest.raises(ValueError, match="expected e.g. http://localhost:6333"):
        connect("localhost:6333")
    with pytest.raises(ConnectionError, match=r"no Qdrant server answers at http://127.0.0.1:9"):
        Collection(connect("http://127.0.0.1:9"), "shop", "http://127.0.0.1:9").facts()


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unifashion_pl.gallery.qdrant.models", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'unifashion-pl\[qdrant\]'"):
        connect("http://localhost:6333")
