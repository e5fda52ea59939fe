"""Embedding a catalogue: interrupted runs go on, batches make the same numbers, bad pictures are found and counted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from catalogues import catalogue, damage, settings_of
from galleries import make_model

from unifashion_pl.gallery import Gallery, building, embedding, gallery_of, staging, store
from unifashion_pl.gallery.embedding import Outcome, embed
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.inference.images import UnreadableImages
from unifashion_pl.module import UniFashionModule


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "BATCH", 3)
    monkeypatch.setattr(embedding, "COMMIT", 6)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many pictures each call of the model had."""
    sizes: list[int] = []
    usual = embedding.encode_image_sets

    def counted(model: Any, images: Any, *others: Any, **more: Any) -> Any:
        sizes.append(len(images))
        return usual(model, images, *others, **more)

    monkeypatch.setattr(embedding, "encode_image_sets", counted)
    return sizes


def built(
    folder: Path, model: UniFashionModule, items: Sequence[IndexItem], root: Path, **options: Any
) -> tuple[Gallery, Outcome]:
    done = embed(folder / "staged", model, items, root, settings_of(model), **options)
    building.build(folder, items, [building.staged(folder / "staged")])
    return Gallery.load(folder, model), done


def equal(one: Gallery, two: Gallery) -> bool:
    sets = all(tokens.equal(two.tokens[name]) for name, tokens in one.tokens.items())
    return sets and one.ids == two.ids and torch.equal(one.caption_vectors, two.caption_vectors)  # type: ignore[arg-type]


def test_a_catalogue_is_the_gallery_of_its_images(model: UniFashionModule, tmp_path: Path) -> None:
    items = catalogue(tmp_path / "photos")
    made, done = built(tmp_path / "index", model, items, tmp_path / "photos")
    expected = gallery_of(
        model,
        [str(item.image) for item in items],
        ids=[item.id for item in items],
        captions=[item.caption for item in items],
        columns=[item.columns for item in items],
    )
    assert (done.rows, done.there, done.made, done.bad) == (20, 0, 20, {})
    assert made.ids == expected.ids
    assert made.captions == expected.captions
    for name, tokens in expected.tokens.items():
        assert torch.allclose(made.tokens[name], tokens, atol=1e-6)
    assert torch.allclose(made.caption_vectors, expected.caption_vectors, atol=1e-6)  # type: ignore[arg-type]
    assert [hit.columns for hit in made.search(text="red", where="price == 7")] == [{"price": 7}]


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_that_decode_change_nothing(model: UniFashionModule, tmp_path: Path, workers: int) -> None:
    items = catalogue(tmp_path / "photos")
    damage(tmp_path / "photos" / "07.png")
    one, _ = built(tmp_path / "one", model, items, tmp_path / "photos", max_bad=1)
    two, done = built(tmp_path / "two", model, items, tmp_path / "photos", max_bad=1, workers=workers)
    assert equal(one, two)
    assert list(done.bad) == ["i07"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interrupted_run_goes_on_and_makes_the_very_numbers(
    model: UniFashionModule,
    tmp_path: Path,
    seen: list[int],
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    items, root = catalogue(tmp_path / "photos"), tmp_path / "photos"
    whole, _ = built(tmp_path / "whole", model, items, root)
    assert sum(seen) == 20
    usual, commits = staging.append, 0

    def dying(*arguments: Any) -> None:
        nonlocal commits
        if commits == 2:
            raise error
        commits += 1
        usual(*arguments)

    monkeypatch.setattr(staging, "append", dying)
    with pytest.raises(error):
        built(tmp_path / "index", model, items, root)
    assert "12 of 20 images are embedded and kept: the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(staging, "append", usual)
    seen.clear()
    resumed, done = built(tmp_path / "index", model, items, root)
    assert (sum(seen), done.there, done.made) == (8, 12, 8)
    assert equal(resumed, whole)
    seen.clear()
    assert equal(built(tmp_path / "index", model, items, root)[0], whole)
    assert seen == []


def test_damage_behind_a_good_header_ends_in_one_list_and_costs_nothing_else(
    model: UniFashionModule, tmp_path: Path, seen: list[int]
) -> None:
    items, root = catalogue(tmp_path / "photos"), tmp_path / "photos"
    whole = {root / f"{name}.png": (root / f"{name}.png").read_bytes() for name in ("01", "02", "17")}
    for path in whole:
        damage(path)
    with pytest.raises(UnreadableImages, match="3 of 20 images cannot be used, allowed are 1") as caught:
        built(tmp_path / "index", model, items, root, max_bad=1)
    assert list(caught.value.bad) == [1, 2, 17]
    assert sum(seen) == 17
    seen.clear()
    made, done = built(tmp_path / "index", model, items, root, max_bad=3)
    assert (seen, len(made), list(done.bad)) == ([], 17, ["i01", "i02", "i17"])
    for path, content in whole.items():  # mended
        path.write_bytes(content)
    again, done = built(tmp_path / "index", model, items, root)
    assert (len(again), done.there, done.made, done.bad) == (20, 17, 3, {})
    assert again.ids == [item.id for item in items]


def test_files_are_looked_at_before_any_is_embedded(model: UniFashionModule, tmp_path: Path, seen: list[int]) -> None:
    items, root = catalogue(tmp_path / "photos"), tmp_path / "photos"
    (root / "03.png").unlink()
    (root / "04.png").write_text("<html>not found</html>")
    with pytest.raises(UnreadableImages, match=r"2 of 20 images .*03.png' not found, .*text/html"):
        built(tmp_path / "index", model, items, root, max_bad=1)
    assert seen == []
    assert not (tmp_path / "index").exists()
    with pytest.raises(ValueError, match="none of the images can be used"):
        built(tmp_path / "index", model, items[3:5], root, max_bad=2)


def test_a_folder_that_is_gone_costs_no_vectors(model: UniFashionModule, tmp_path: Path, seen: list[int]) -> None:
    """As when a disk is not mounted."""
    items, root = catalogue(tmp_path / "photos"), tmp_path / "photos"
    whole, _ = built(tmp_path / "index", model, items, root)
    root.rename(tmp_path / "away")
    with pytest.raises(UnreadableImages, match="20 of 20 images"):
        built(tmp_path / "index", model, items, root, max_bad=3)
    (tmp_path / "away").rename(root)
    seen.clear()
    assert equal(built(tmp_path / "index", model, items, root)[0], whole)
    assert seen == []


def test_what_changed_is_embedded_anew_and_what_went_is_left_out(
    model: UniFashionModule, tmp_path: Path, seen: list[int]
) -> None:
    items, root = catalogue(tmp_path / "photos"), tmp_path / "photos"
    built(tmp_path / "index", model, items, root)
    (root / "05.png").write_bytes((root / "06.png").read_bytes() + b"\0")
    changed = [IndexItem("i09", "a blue skirt", items[9].image) if item.id == "i09" else item for item in items[:-2]]
    seen.clear()
    made, done = built(tmp_path / "index", model, changed, root)
    assert (seen, done.there, done.made, len(made)) == ([1, 1], 16, 2, 18)
    assert made.tokens["target"][5].allclose(made.tokens["target"][6], atol=1e-6)
    assert made.captions[9] == "a blue skirt"
    before = (root / "03.png").stat()
    os.utime(root / "03.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # another picture of the same size
    _, done = built(tmp_path / "index", model, changed, root)
    assert (done.there, done.made) == (17, 1)


def test_vectors_of_another_kind_are_not_gone_on_with(model: UniFashionModule, tmp_path: Path) -> None:
    items, root, place = catalogue(tmp_path / "photos", 4), tmp_path / "photos", tmp_path / "staged"
    embed(place, model, items, root, settings_of(model))
    other = make_model(1)
    with pytest.raises(ValueError, match="4 images of an interrupted run, embedded with model .*, not .*--anew"):
        embed(place, other, items, root, settings_of(other))
    with pytest.raises(ValueError, match="storage fp32, not int8, pool None, not 2"):
        embed(place, model, items, root, settings_of(model, "int8", pool=2))
    with pytest.raises(ValueError, match="holds shard 0/1, not 0/2"):
        embed(place, model, items, root, settings_of(model), shard=staging.Shard(0, 2))
    assert len(store.read(place, staged=True).rows) == 4
    assert embed(place, other, items, root, settings_of(other), anew=True).made == 4


def test_vectors_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    broken = make_model()
    with torch.no_grad():
        broken.retrieval_head.vision_proj.weight[0, 0] = float("nan")  # type: ignore[union-attr]
    items = catalogue(tmp_path / "photos", 4)
    with pytest.raises(ValueError, match="the vectors of i00, i01, i02, i03 are NaN or infinite"):
        embed(tmp_path / "staged", broken, items, tmp_path / "photos", settings_of(broken))


def test_captions_that_cannot_be_read_are_said_once_and_before(model: UniFashionModule, tmp_path: Path) -> None:
    items = [IndexItem(item.id, "платье", item.image) for item in catalogue(tmp_path / "photos", 14)]
    with pytest.warns(UserWarning, match="can read nothing of 14 captions, which count as none: 'платье'") as said:
        made, _ = built(tmp_path / "index", model, items, tmp_path / "photos")
    assert len([one for one in said if "captions" in str(one.message)]) == 1
    assert made.captions == ["платье"] * 14
    assert made.caption_vectors is not None
    assert not made.caption_vectors.any()
