"""Shards of vectors become an index, or a sentence says what is missing; the index that was there stays until then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from catalogues import catalogue, damage, settings_of
from galleries import make_model, same

from unifashion_pl import files
from unifashion_pl.gallery import Gallery, building, segments, staging, store
from unifashion_pl.gallery.embedding import embed
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.segments import segment_from
from unifashion_pl.gallery.staging import WHOLE, Shard
from unifashion_pl.gallery.stored import Note
from unifashion_pl.module import UniFashionModule


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    catalogue(root, 12)
    return root


@pytest.fixture(scope="module")
def ready(model: UniFashionModule, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of 12 images in two shards."""
    place = tmp_path_factory.mktemp("vectors")
    for index in range(2):
        embed(place / str(index), model, catalogue(photos, 12), photos, settings_of(model), shard=Shard(index, 2))
    return place


@pytest.fixture
def vectors(ready: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ready, tmp_path / "vectors"))


@pytest.mark.parametrize("storage", ["fp32", "int8"])
def test_an_index_of_shards_is_the_one_built_at_once(
    model: UniFashionModule, photos: Path, tmp_path: Path, storage: str
) -> None:
    items, settings = catalogue(photos, 12), settings_of(model, storage, pool=2, coarse=1)
    for index in range(2):
        embed(tmp_path / "vectors" / str(index), model, items, photos, settings, shard=Shard(index, 2))
    embed(tmp_path / "staged", model, items, photos, settings)
    building.build(tmp_path / "whole", items, [building.staged(tmp_path / "staged")])
    building.build(tmp_path / "sharded", items, building.shards([tmp_path / "vectors"]))
    one, two = (Gallery.load(tmp_path / name, model) for name in ("whole", "sharded"))
    assert one.ids == two.ids == [item.id for item in items]
    assert (one.captions, one.columns) == (two.captions, two.columns)
    for name, tokens in one.tokens.items():
        assert torch.allclose(two.tokens[name], tokens, atol={"fp32": 1e-6, "int8": 0.01}[storage])
    assert torch.allclose(one.caption_vectors, two.caption_vectors, atol=0.01)  # type: ignore[arg-type]
    if storage == "fp32":
        assert same(one.search(text="a red dress"), two.search(text="a red dress"))


def test_files_of_vectors_are_shared_not_copied(model: UniFashionModule, photos: Path, vectors: Path, tmp_path: Path) -> None:
    building.build(tmp_path / "index", catalogue(photos, 12), building.shards([vectors]))
    for path in vectors.rglob("vectors-*"):
        assert os.path.samefile(path, tmp_path / "index" / path.name)
    shutil.rmtree(vectors)
    store.check(tmp_path / "index")


def test_where_no_second_name_can_be_made_files_are_copied(
    photos: Path, vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refused)
    building.build(tmp_path / "index", catalogue(photos, 12), building.shards([vectors / "0", vectors / "1"]))
    assert len(store.check(tmp_path / "index").rows) == 12
    assert not list((tmp_path / "index").glob("*.part"))


def test_shards_that_are_not_there_or_not_finished_are_named(vectors: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no vectors in .*: make them with `unifashion index embed --out FOLDER`"):
        building.shards([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match=r"1 of 2 shards are not there, 1/2: make it with .* --shard 1/2"):
        building.shards([vectors / "0"])
    staging.put_note(vectors / "1", Note(1, 2))
    with pytest.raises(ValueError, match=r"is not finished, \d images are embedded: .* --shard 1/2` goes on"):
        building.shards([vectors])
    staging.put_note(vectors / "1", Note(1, 3, True))
    with pytest.raises(ValueError, match="is one of 2 shards, .* one of 3"):
        building.shards([vectors])


def test_shards_that_do_not_belong_together_are_refused(
    model: UniFashionModule, photos: Path, vectors: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="has vectors in .*0 and in .*copy: name each shard once"):
        building.shards([vectors, shutil.copytree(vectors / "0", tmp_path / "copy")])
    other, one = make_model(1), vectors / "1"
    embed(one, other, catalogue(photos, 12), photos, settings_of(other), shard=Shard(1, 2), anew=True)
    with pytest.raises(ValueError, match="do not belong together: model .*, not .*. Embed one of them again"):
        building.shards([vectors])
    shutil.rmtree(one)
    staging.begin(one, settings_of(model), Shard(1, 2))
    wide = segment_from({"reference": np.ones((1, 4, 16), np.float32)}, "fp32")
    staging.append(one, settings_of(model), [IndexItem("x", "", "x.png")], [-1], wide)
    staging.put_note(one, Note(1, 2, True))
    with pytest.raises(ValueError, match=r"have the shape \(4, 8\), in .*1 \(4, 16\): embed one of them again"):
        building.shards([vectors])


def test_vectors_that_are_damaged_or_no_numbers_are_refused(model: UniFashionModule, vectors: Path) -> None:
    place = vectors / "0"
    with np.errstate(invalid="ignore"):
        wrong = segment_from({"reference": np.full((1, 4, 8), np.nan, np.float32)}, "fp32")
    staging.append(place, settings_of(model), [IndexItem("x", "", "x.png")], [-1], wrong)
    with pytest.raises(ValueError, match="reference has NaN or infinite numbers"):
        building.shards([vectors])
    (path,) = (vectors / "1").glob("vectors-*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its vectors are not those that were written"):
        building.staged(vectors / "1")


def test_rows_without_their_vectors_are_named(photos: Path, vectors: Path) -> None:
    items, sources = catalogue(photos, 12), building.shards([vectors])
    assert building.missing(items, photos, sources) == {}
    more = [*items, IndexItem("new", "", str(photos / "new.png"))]
    with pytest.raises(ValueError, match=r"1 rows of the CSV have no vectors \(new\): run .* for every shard again"):
        building.missing(more, photos, sources)
    changed = [IndexItem("i01", "other words", items[1].image), *items[2:]]
    with pytest.raises(ValueError, match=r"1 were embedded with another picture or text \(i01\)"):
        building.missing(changed, photos, sources)
    with pytest.warns(UserWarning, match="2 vectors are of rows that the CSV does not have"):
        assert building.missing(items[2:], photos, sources) == {}


def test_pictures_that_shards_left_out_are_left_out(model: UniFashionModule, tmp_path: Path) -> None:
    items, root = catalogue(tmp_path / "photos", 8), tmp_path / "photos"
    damage(root / "03.png")
    for index in range(2):
        embed(tmp_path / str(index), model, items, root, settings_of(model), shard=Shard(index, 2), max_bad=1)
    sources = building.shards([tmp_path / "0", tmp_path / "1"])
    assert list(building.missing(items, root, sources)) == [3]
    assert building.build(tmp_path / "index", items, sources).rows.ids() == [item.id for item in items if item.id != "i03"]


def test_images_are_added_and_replaced_in_one_commit(model: UniFashionModule, photos: Path, tmp_path: Path) -> None:
    items, index = catalogue(photos, 12), tmp_path / "index"
    embed(tmp_path / "staged", model, items[:6], photos, settings_of(model))
    building.build(index, items[:6], [building.staged(tmp_path / "staged")])
    before = Gallery.load(index, model)
    turned = [IndexItem(items[i].id, "", items[11 - i].image, None, {"price": 100 + i}) for i in range(4, 8)]
    # an older run left rows that are none of these
    embed(tmp_path / "more", model, items[:2], photos, settings_of(model))
    embed(tmp_path / "more", model, turned, photos, settings_of(model))
    with files.exclusive(index):
        replaced, now = building.add(index, turned, building.staged(tmp_path / "more"))
    assert (replaced, len(now.rows)) == (2, 8)
    after = Gallery.load(index, model)
    assert after.ids == ["i00", "i01", "i02", "i03", "i04", "i05", "i06", "i07"]
    assert after.tokens["target"][:4].equal(before.tokens["target"][:4])
    assert sorted(hit.id for hit in after.search(text="red", where="price > 99")) == ["i04", "i05", "i06", "i07"]
    assert after.tokens["target"][6].allclose(before.tokens["target"][5], atol=1e-6)


@pytest.mark.parametrize("place", ["put", "sweep"])
def test_a_build_that_dies_leaves_the_older_index(
    model: UniFashionModule, photos: Path, vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    items, index = catalogue(photos, 12), tmp_path / "index"
    sources = building.shards([vectors])
    building.build(index, items[:4], sources)

    def dying(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, place, dying)
    with pytest.raises(KeyboardInterrupt):
        building.build(index, items, sources)
    monkeypatch.undo()
    assert len(Gallery.load(index, model)) == (4 if place == "put" else 12)
    building.build(index, items, sources)
    assert len(Gallery.load(index, model)) == 12


def test_an_index_of_an_interrupted_build_says_so(model: UniFashionModule, tmp_path: Path) -> None:
    staging.begin(tmp_path / store.BUILDING, settings_of(model), WHOLE)
    one = segment_from({"reference": np.ones((1, 4, 8), np.float32)}, "fp32")
    staging.append(tmp_path / store.BUILDING, settings_of(model), [IndexItem("x", "", "x.png")], [-1], one)
    with pytest.raises(
        FileNotFoundError, match="is not finished, 1 images are embedded: the same `unifashion index build` goes on"
    ):
        Gallery.load(tmp_path, model)
    assert segments.read(next((tmp_path / store.BUILDING).glob("vectors-*"))).rows == 1
