from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from data.rawdata import CATEGORIES, write_fashioniq
from readers import DAMAGES, check, keys, lost, on_rank, split_of
from unifashion_pl.datamodules import FashionIQCapDataModule, fashioniq_cap

from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import MissingDataError
from unifashion_pl.data.samples import PairBatch
from unifashion_pl.data.shards import write_shards

SHARED = "SHIRTVALT0"  # in the training split of toptee and the validation split of shirt


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """57 distinct training images, one of them also in a validation split; the checks find it complete."""
    return write_fashioniq(tmp_path / "raw")


def module(root: Path, **options: Any) -> FashionIQCapDataModule:
    settings = {"batch_size": 8, "image_size": 16, **options}
    return FashionIQCapDataModule(settings.pop("captions", root / "captions.jsonl"), root, **settings)


def train_ids(root: Path) -> list[str]:
    return [id for c in CATEGORIES for id in json.loads((root / f"image_splits/split.{c}.train.json").read_text())]


def library(root: Path, ids: list[str], **more: Any) -> None:
    lines = [{"image": id, "caption": f"a picture of {id}", "inputs": ["image"], **more} for id in ids]
    (root / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_image_is_reported_and_left_out(root: Path, tmp_path: Path, damage: str) -> None:
    assert check("fashioniq_cap", root).complete
    spoil, reason = DAMAGES[damage]
    spoil(root / "images/DTR00004.jpg")
    report = check("fashioniq_cap", root)
    found = split_of(report, "fashioniq-cap/train")
    assert (report.complete, found.expected, found.usable) == (False, 57, 56)
    assert lost(found) == {("DTR00004", "image", reason, 1)}
    (plan,) = fashioniq_cap.plans(root)
    index = ShardIndex.load(write_shards(plan, tmp_path / "out", progress=False))
    assert [(m["id"], m["reason"]) for m in index.missing] == [("DTR00004", reason)]


def test_absent_and_wrong_annotations_are_named(root: Path) -> None:
    split = root / "image_splits/split.shirt.train.json"
    split.write_text("{")
    assert "split.shirt.train.json is not a list" in str(check("fashioniq_cap", root).problem)
    split.unlink()
    with pytest.raises(MissingDataError, match="split.shirt.train.json is missing"):
        module(root).prepare_data()


def test_images_without_a_caption_are_left_out_and_counted(root: Path) -> None:
    data = module(root, batch_size=1)
    data.prepare_data()
    ids = train_ids(root)
    library(root, [id for id in ids if id not in ("DTR00000", "STR00005")])
    with pytest.warns(UserWarning, match="fashioniq-cap: 2 of 57 training images have no caption"):
        loader = data.train_loader()
    assert sorted(keys(loader)) == sorted(set(ids) - {"DTR00000", "STR00005", SHARED})
    library(root, ids, caption=" ")
    with pytest.raises(ValueError, match=r"captions.jsonl has a caption for none of the 57 training images"):
        data.train_loader()
    library(root, ["B00"])
    with pytest.raises(ValueError, match="for none of the 57 training images: is it of another split"):
        data.train_loader()


def test_captions_are_guarded(root: Path) -> None:
    data = module(root)
    data.prepare_data()
    with pytest.raises(FileNotFoundError, match="no caption library .*captions.jsonl"):
        data.train_loader()
    library(root, train_ids(root), inputs=["image", "query"])
    with pytest.raises(ValueError, match=r"captions.jsonl:1: .*made from query"):
        data.train_loader()
    assert len(module(root, allow_unsafe_captions=True).train_loader()) == 7
    (root / "captions.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"captions.jsonl:1 is not an object with image, caption"):
        data.train_loader()


def test_validation_images_are_left_out_unless_kept(root: Path) -> None:
    data = module(root)
    data.prepare_data()
    library(root, train_ids(root))
    seen = {rule: set(keys(module(root, val_overlap=rule, batch_size=1).train_loader())) for rule in ("exclude", "keep")}
    assert seen["keep"] == set(train_ids(root))
    assert seen["keep"] - seen["exclude"] == {SHARED}


def test_an_unknown_rule_for_the_overlap_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="unknown val_overlap 'drop'; known are exclude, keep"):
        module(root, val_overlap="drop")


def test_training_batches(root: Path) -> None:
    data = module(root, pixel_size=(24, 20))
    data.prepare_data()
    library(root, train_ids(root))
    batches = list(data.train_dataloader().iterables["pairs"])
    assert len(batches) == 56 // 8
    for batch in batches:
        assert isinstance(batch, PairBatch)
        assert (batch.images.shape, batch.images.dtype) == ((8, 3, 16, 16), torch.uint8)
        assert batch.pixels is not None
        assert (batch.pixels.shape, batch.pixels.dtype) == ((8, 3, 24, 20), torch.uint8)
        assert batch.texts == batch.captions == [f"a picture of {key}" for key in batch.keys]
        assert batch.styles == ["fashioniq"] * 8
        assert len(set(batch.products.tolist())) == 8
        assert batch.dataset == "fashioniq-cap/train"
    parts = [keys(on_rank(module(root, batch_size=3), rank, 2).train_loader()) for rank in range(2)]
    assert [len(part) for part in parts] == [27, 27]
    assert len({key for part in parts for key in part}) == 54


def test_there_is_nothing_to_evaluate_on(root: Path) -> None:
    assert module(root).val_dataloader() == module(root).test_dataloader() == []


def test_shards_of_another_split_are_refused(root: Path, tmp_path: Path) -> None:
    library(root, train_ids(root))
    module(root).prepare_data()
    index = root / "shards/pairs-train/index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "split": "val"}))
    with pytest.raises(ValueError, match=r"fashioniq-cap/val \(pairs\) is an evaluation split: training on it is refused"):
        module(root).train_loader()
    shutil.rmtree(root / "shards")
    with pytest.raises(FileNotFoundError, match="FashionIQCapDataModule: no shards for pairs-train"):
        FashionIQCapDataModule(root / "captions.jsonl", shards=tmp_path / "no").prepare_data()
