from __future__ import annotations

import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from data.rawdata import CATEGORIES, write_fashioniq
from readers import DAMAGES, check, keys, lost, odd_pictures, on_rank, split_of
from unifashion_pl.datamodules import FashionIQDataModule, fashioniq
from unifashion_pl.datamodules.checks_text import report_text
from unifashion_pl.datamodules.fashioniq_raw import RawFashionIQ

from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import MissingDataError
from unifashion_pl.data.samples import GalleryBatch, QueryBatch, TripletBatch
from unifashion_pl.data.shards import write_shards


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """24 training triplets, 15 queries, 39 gallery images; the checks find it complete."""
    return write_fashioniq(tmp_path / "raw")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with shards; not to be changed."""
    root = write_fashioniq(tmp_path_factory.mktemp("fashioniq"))
    FashionIQDataModule(root).prepare_data()
    return root


def module(root: Path, **options: Any) -> FashionIQDataModule:
    return FashionIQDataModule(root, **{"batch_size": 4, "eval_batch_size": 4, "image_size": 16, **options})


def rewrite(path: Path, change: Any) -> None:
    """Replace the content of a JSON file by what ``change`` makes of it."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def entry(position: int, **values: Any) -> Any:
    """A change of one entry of a caption file; None as value takes the field out."""

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        merged = {**entries[position], **values}
        entries[position] = {k: v for k, v in merged.items() if v is not None}
        return entries

    return change


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_image_is_reported_with_what_it_takes_along(root: Path, tmp_path: Path, damage: str) -> None:
    assert check("fashioniq", root).complete
    spoil, reason = DAMAGES[damage]
    spoil(root / "images/DVA00000.jpg")
    report = check("fashioniq", root)
    assert not report.complete
    queries, gallery = (split_of(report, "fashioniq/val", kind) for kind in ("queries", "gallery"))
    assert (queries.expected, queries.usable, gallery.expected, gallery.usable) == (15, 14, 39, 38)
    assert lost(queries) == {("DVA00000", "reference", reason, 1)}
    assert lost(gallery) == {("DVA00000", "image", reason, 1)}
    assert split_of(report, "fashioniq/train").usable == 24
    assert queries.groups["dress"] == {"expected": 5, "usable": 4}
    for line in (
        "INCOMPLETE",
        "val, queries: 1 of 15 are lost (dress 5 -> 4)",
        "val, gallery: 1 of 39 are lost (dress 13 -> 12)",
        f"image DVA00000: {reason}",
        "data shards fashioniq --root",
        "--allow-missing",
    ):
        assert line in report_text(report)
    with pytest.raises(MissingDataError, match=r"DVA00000: .*dress: 4 of 5.*not comparable"):
        module(root).prepare_data()
    for plan in fashioniq.plans(root):
        index = ShardIndex.load(write_shards(plan, tmp_path / "out", allow_missing=True, progress=False))
        assert index.expected - index.samples == len(index.missing) == (plan.split == "val")
        assert all((bad["id"], bad["reason"], bad["group"]) == ("DVA00000", reason, "dress") for bad in index.missing)


def test_an_image_that_several_triplets_need_is_one_finding(root: Path) -> None:
    rewrite(root / "captions/cap.dress.train.json", entry(1, candidate="DTR00000"))
    rewrite(root / "captions/cap.dress.train.json", entry(2, candidate="DTR00000"))
    (root / "images/DTR00000.jpg").unlink()
    train = split_of(check("fashioniq", root), "fashioniq/train")
    assert lost(train) == {("DTR00000", "reference", "missing", 3)}
    assert train.usable == 21
    assert "reference DTR00000: missing (takes 3 samples along)" in report_text(check("fashioniq", root))


CAPTIONS, SPLIT = "captions/cap.dress.val.json", "image_splits/split.dress.val.json"


def test_empty_captions_drop_out_with_their_and_and_are_counted(root: Path) -> None:
    rewrite(root / CAPTIONS, entry(1, captions=["is red.", " . "]))
    rewrite(root / CAPTIONS, entry(2, captions=["", ""]))
    report = check("fashioniq", root)
    for note in ("dress val: 2 entries have an empty caption, which drops out", "dress val: 1 entries have no text at all"):
        assert note in split_of(report, "fashioniq/val", "queries").notes
        assert note in report_text(report)
    data = module(root)
    data.prepare_data()
    texts = [text for batch in data.val_dataloader()[1] for text in batch.texts]
    assert texts[:5] == ["Is shorter", "Is red", "", "Is red 3 and has sleeves 3", "Is red 4 and has sleeves 4"]
    assert not any(text.lower().startswith("and ") or text.endswith(" and") for text in texts)


def test_images_in_every_mode_become_rgb(root: Path) -> None:
    pictures = odd_pictures((40, 48))
    ids = dict(zip(pictures, json.loads((root / SPLIT).read_text())))
    for mode, (data, _) in pictures.items():
        (root / f"images/{ids[mode]}.jpg").write_bytes(data)
    assert check("fashioniq", root).complete
    data_module = module(root)
    data_module.prepare_data()
    gallery = {key: image for batch in data_module.val_dataloader()[0] for key, image in zip(batch.keys, batch.images)}
    for mode, (_, colour) in pictures.items():
        middle = gallery[ids[mode]][:, 4:12, 4:12].float().mean((1, 2))
        assert middle.tolist() == pytest.approx(colour, abs=3), mode


def test_shards_of_other_annotations_are_made_again_with_a_warning(root: Path) -> None:
    data = module(root)
    data.prepare_data()
    path = root / "captions/cap.dress.train.json"

    def times() -> dict[str, int]:
        files = (root / "shards").rglob("*.tar*")
        return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in files}

    before = times()
    path.write_bytes(path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(root).prepare_data()
    assert times() == before
    rewrite(path, entry(0, captions=["is blue", "has dots"]))
    with pytest.warns(
        UserWarning, match=r"triplets-train was made from other files: captions/cap\.dress\.train\.json changed since"
    ):
        module(root).prepare_data()
    changed = {Path(name).parent.name for name, time in times().items() if before.get(name) != time}
    assert changed == {"triplets-train"}
    data = module(root)
    texts = [text.lower() for batch in islice(data.train_loader(), 6) for text in batch.texts]
    assert any("is blue" in text or "has dots" in text for text in texts)
    shutil.rmtree(root / "captions")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(root).prepare_data()


def test_training_batches(made: Path) -> None:
    data = module(made, pixel_size=(24, 20), val_overlap="keep")
    combined = data.train_dataloader()
    loader = combined.iterables["triplets"]
    batches = [batch for batch, _, _ in combined]
    assert len(batches) == len(loader) == 6
    assert all(set(streams) == {"triplets"} for streams in batches)
    batch = batches[0]["triplets"]
    assert isinstance(batch, TripletBatch)
    assert len(batch) == 4
    for images in (batch.references, batch.targets):
        assert (images.shape, images.dtype) == ((4, 3, 16, 16), torch.uint8)
    assert batch.pixels is not None
    assert (batch.pixels.shape, batch.pixels.dtype) == ((4, 3, 24, 20), torch.uint8)
    assert (batch.target_ids.shape, batch.target_ids.dtype) == ((4,), torch.int64)
    assert batch.styles == ["fashioniq"] * 4
    assert batch.captions == [""] * 4
    assert batch.dataset == "fashioniq/train"
    assert set(batch.categories) <= set(CATEGORIES)
    assert all(text[:1].isupper() for text in batch.texts)
    assert module(made).train_loader().__iter__().__next__().pixels is None


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_rank_has_samples_by_world_and_batch_many_training_batches(made: Path, world: int) -> None:
    parts = [on_rank(module(made, batch_size=3), rank, world).train_loader() for rank in range(world)]
    for _ in range(2):
        seen = [keys(loader) for loader in parts]
        assert [len(part) for part in seen] == [23 // (3 * world) * 3] * world
        assert max(Counter(key for part in seen for key in part).values()) == 1
    assert {len(loader) for loader in parts} == {23 // (3 * world)}


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_delivers_everything_exactly_once(made: Path, world: int) -> None:
    ranks = [on_rank(module(made, pixel_size=(24, 20)), rank, world) for rank in range(world)]
    for loaders in ([r.val_dataloader() for r in ranks], [r.test_dataloader() for r in ranks]):
        galleries, queries = zip(*loaders)
        assert sorted(k for loader in galleries for k in keys(loader)) == sorted(
            id for c in CATEGORIES for id in json.loads((made / f"image_splits/split.{c}.val.json").read_text())
        )
        assert sorted(k for loader in queries for k in keys(loader)) == [
            f"{c}-val-{i:05d}" for c in CATEGORIES for i in range(5)
        ]


def test_gallery_and_query_batches(made: Path) -> None:
    gallery, queries = (next(iter(loader)) for loader in module(made, pixel_size=(24, 20)).val_dataloader())
    assert isinstance(gallery, GalleryBatch)
    assert gallery.keys == ["DVA00000", "DVA00001", "DVA00002", "DVA00003"]
    assert (gallery.images.shape, gallery.images.dtype) == ((4, 3, 16, 16), torch.uint8)
    assert gallery.categories == ["dress"] * 4
    assert gallery.captions == [""] * 4
    assert gallery.in_union == [True] * 4
    assert isinstance(queries, QueryBatch)
    assert queries.keys == [f"dress-val-0000{i}" for i in range(4)]
    assert queries.reference_ids == ["DVA00000", "DVA00002", "DVA00004", "DVA00006"]
    assert queries.target_ids == ["DVA00001", "DVA00003", "DVA00005", "DVA00007"]
    assert (queries.references.shape, queries.references.dtype) == ((4, 3, 16, 16), torch.uint8)
    assert torch.equal(queries.references[0], gallery.images[0])
    assert queries.pixels is not None
    assert (queries.pixels.shape, queries.pixels.dtype) == ((4, 3, 24, 20), torch.uint8)
    assert (gallery.dataset, queries.dataset) == ("fashioniq/val", "fashioniq/val")


def test_distractors_are_not_in_the_union(made: Path) -> None:
    gallery = module(made).val_dataloader()[0]
    union = Counter((c, u) for batch in gallery for c, u in zip(batch.categories, batch.in_union))
    assert union == {(c, u): n for c in CATEGORIES for u, n in ((True, 10), (False, 3))}


def test_queries_whose_target_stands_in_a_training_split_are_marked_if_the_shards_say_so(made: Path, tmp_path: Path) -> None:
    def marked(shards: Path) -> tuple[int, list[str]]:
        batches = list(FashionIQDataModule(None, shards, eval_batch_size=4, image_size=16).val_dataloader()[1])
        assert all(isinstance(batch, QueryBatch) for batch in batches)
        return sum(len(b.overlap) for b in batches), [k for b in batches for k, o in zip(b.keys, b.overlap) if o]

    assert marked(made / "shards") == (15, ["shirt-val-00000"])
    shutil.copytree(made / "shards", tmp_path / "older")
    rewrite(tmp_path / "older/queries-val/index.json", lambda index: {**index, "subsets": {}})
    assert marked(tmp_path / "older") == (0, [])


def test_the_joiner_is_the_one_asked_for(made: Path) -> None:
    texts = [text for batch in module(made, joiner="comma").val_dataloader()[1] for text in batch.texts]
    assert texts[:2] == ["Is shorter", "Is red 1, has sleeves 1"]


def test_triplets_that_touch_a_validation_image_are_left_out_unless_kept(made: Path) -> None:
    touching = "toptee-train-00001"
    loaders = {rule: module(made, val_overlap=rule, batch_size=1).train_loader() for rule in ("exclude", "keep")}
    assert {rule: loader.samples for rule, loader in loaders.items()} == {"exclude": 23, "keep": 24}
    assert set(keys(loaders["keep"])) - set(keys(loaders["exclude"])) == {touching}
    with pytest.raises(ValueError, match="unknown val_overlap 'drop'; known are exclude, keep"):
        module(made, val_overlap="drop")


def test_training_on_validation_is_refused_also_under_another_name(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "shards/queries-val", tmp_path / "triplets-train")
    with pytest.raises(ValueError, match=r"fashioniq/val \(queries\) is an evaluation split: training on it is refused"):
        module(made, shards=tmp_path).train_dataloader()


def test_shards_without_raw_data_are_enough_and_their_absence_is_named(made: Path, tmp_path: Path) -> None:
    alone = FashionIQDataModule(shards=made / "shards", batch_size=4)
    alone.prepare_data()
    assert len(alone.train_loader()) == 5
    with pytest.raises(FileNotFoundError, match=r"no shards for triplets-train, queries-val, gallery-val in .*root="):
        FashionIQDataModule(shards=tmp_path).prepare_data()


PROVENANCE = {"captioner": "head", "weights_hash": "0f", "template": "describe", "decoding": "greedy"}


def library(path: Path, images: list[str], **more: Any) -> Path:
    lines = [{"image": id, "caption": f"a picture of {id}", "inputs": ["image"], **more} for id in images]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_training_targets_get_their_captions(made: Path, tmp_path: Path) -> None:
    data = module(made, captions=library(tmp_path / "c.jsonl", ["DTR00001"]), batch_size=1)
    captions = {batch.keys[0]: batch.captions[0] for batch in data.train_loader()}
    assert captions.pop("dress-train-00000") == "a picture of DTR00001"
    assert set(captions.values()) == {""}
    with pytest.raises(FileNotFoundError, match="no caption library"):
        module(made, captions=tmp_path / "no.jsonl").train_loader()


def test_gallery_captions_have_to_fit_the_gallery_and_be_blind_to_queries(made: Path, tmp_path: Path) -> None:
    ids = sorted({id for c in CATEGORIES for id in json.loads((made / f"image_splits/split.{c}.val.json").read_text())})
    good = library(tmp_path / "good.jsonl", ids, **PROVENANCE)
    gallery = module(made, gallery_captions=good).val_dataloader()[0]
    assert all(c == f"a picture of {k}" for batch in gallery for k, c in zip(batch.keys, batch.captions))
    assert all(
        p == {"image": k, "inputs": ["image"], **PROVENANCE} for batch in gallery for k, p in zip(batch.keys, batch.provenance)
    )
    for path, message in (
        (library(tmp_path / "few.jsonl", ids[1:], **PROVENANCE), f"1 of {len(ids)} gallery images have no caption: {ids[0]}"),
        (library(tmp_path / "more.jsonl", [*ids, "X"], **PROVENANCE), "1 captions belong to no image of the gallery: X"),
        (library(tmp_path / "leak.jsonl", ids, inputs=["image", "query"]), "made from query"),
        (library(tmp_path / "guided.jsonl", ids, text_guidance="is red"), "text_guidance"),
        (library(tmp_path / "unknown.jsonl", ids, inputs=None), "no inputs"),
        (library(tmp_path / "half.jsonl", ids), "no captioner; no weights_hash; no template; no decoding"),
    ):
        with pytest.raises(ValueError, match=message):
            module(made, gallery_captions=path).val_dataloader()
    leaked = module(made, gallery_captions=tmp_path / "leak.jsonl", allow_unsafe_captions=True).val_dataloader()[0]
    first = next(iter(leaked))
    assert first.captions[0] == "a picture of DVA00000"
    assert first.allow_unsafe_captions
    assert first.provenance[0]["inputs"] == ["image", "query"]


@pytest.fixture(scope="module")
def annotations() -> Path:
    """Fashion-IQ's captions and image splits as published, without images."""
    named = os.environ.get("UNIFASHION_SHARED_DATA")
    if not named:
        pytest.skip("UNIFASHION_SHARED_DATA names no folder with fashion-iq/captions and fashion-iq/image_splits")
    root = Path(named) / "fashion-iq"
    if absent := [name for name in ("captions", "image_splits") if not (root / name).is_dir()]:
        pytest.skip(f"UNIFASHION_SHARED_DATA: no folder {' or '.join(absent)} in {root}")
    return root


@pytest.fixture(scope="module")
def published(annotations: Path) -> RawFashionIQ:
    return RawFashionIQ(annotations)


@pytest.mark.real_data
def test_the_check_says_exactly_that_all_images_are_missing(annotations: Path, published: RawFashionIQ) -> None:
    report = check("fashioniq", annotations)
    assert not report.complete
    assert [(s.kind, s.expected, s.usable) for s in report.splits] == [
        ("triplets", 18_000, 0),
        ("queries", 6_016, 0),
        ("gallery", 15_536, 0),
    ]
    for split in report.splits:
        assert {bad.reason for bad in split.unusable} == {"missing"}
        assert all(counts["usable"] == 0 for counts in split.groups.values())
    queries, gallery = report.splits[1], report.splits[2]
    assert {g: c["expected"] for g, c in queries.groups.items()} == {"dress": 2017, "shirt": 2038, "toptee": 1961}
    assert sum(bad.samples for bad in queries.unusable) == 2 * 6_016
    assert {bad.id for bad in gallery.unusable} == {id for c in CATEGORIES for id in published.ids(c, "val")}
    assert (len(gallery.unusable), sum(bad.samples for bad in gallery.unusable)) == (15_415, 15_536)
    text = report_text(report)
    for line in ("INCOMPLETE", "dress 2,017 -> 0", "shirt 2,038 -> 0", "toptee 1,961 -> 0", "dress 3,817 -> 0"):
        assert line in text
    assert "note: images in: no folder of images; 77,683 ids listed, 74,381 distinct, 0 files" in text
    assert "note: 523 training triplets touch an image" in text


@pytest.fixture(scope="module")
def full_size(annotations: Path, wardrobe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The published annotations over pictures of the wardrobe that stand in for all 74,381 ids."""
    root = tmp_path_factory.mktemp("full")
    for folder in ("captions", "image_splits"):
        (root / folder).symlink_to(annotations / folder)
    (root / "images").mkdir()
    drawn = sorted((wardrobe / "fashion-iq/images").glob("*.jpg"))[:48]
    ids = sorted({id for path in (root / "image_splits").glob("*.json") for id in json.loads(path.read_text())})
    for number, id in enumerate(ids):
        os.link(drawn[number % len(drawn)], root / "images" / f"{id}.jpg")
    yield root
    shutil.rmtree(root)


@pytest.mark.real_data
@pytest.mark.slow
def test_the_published_validation_split_is_read_at_full_size(full_size: Path, published: RawFashionIQ) -> None:
    plans = {plan.folder: plan for plan in fashioniq.plans(full_size)}
    assert {folder: len(plan.items) for folder, plan in plans.items()} == {
        "triplets-train": 18_000,
        "queries-val": 6_016,
        "gallery-val": 15_536,
    }
    for folder in ("queries-val", "gallery-val"):
        index = ShardIndex.load(write_shards(plans[folder], full_size / "shards", progress=False))
        assert (index.samples, index.missing) == (len(plans[folder].items), [])
    gallery, queries = (loader for loader in module(full_size, eval_batch_size=256).val_dataloader())
    seen: dict[str, set[str]] = {category: set() for category in CATEGORIES}
    count = 0
    for batch in gallery:
        assert batch.images.shape == (len(batch), 3, 16, 16)
        count += len(batch)
        for category, key in zip(batch.categories, batch.keys):
            seen[category].add(key)
    assert count == 15_536
    assert {category: len(keys) for category, keys in seen.items()} == {"dress": 3817, "shirt": 6346, "toptee": 5373}
    entries = {f"{c}-val-{e.position:05d}": e for c in CATEGORIES for e in published.entries(c, "val")}
    found, alone = {}, {}
    for batch in queries:
        assert batch.references.shape == (len(batch), 3, 16, 16)
        assert all({r, t} <= seen[c] for c, r, t in zip(batch.categories, batch.reference_ids, batch.target_ids))
        found |= {key: ids for key, *ids in zip(batch.keys, batch.reference_ids, batch.target_ids)}
        alone |= {key: text.lower() for key, text in zip(batch.keys, batch.texts) if "" in entries[key].captions}
    assert found == {key: [e.reference, e.target] for key, e in entries.items()}
    assert alone == {key: max(entries[key].captions).strip(".?, ").lower() for key in alone}
    assert len(alone) == 3
    trained = Counter(key.split("-")[0] for key in plans["queries-val"].subsets["train_overlap"])
    assert trained == {"shirt": 140, "toptee": 145}
