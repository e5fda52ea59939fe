from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from data.rawdata import jpeg
from readers import DAMAGES, check, keys, lost, odd_pictures, on_rank, split_of
from unifashion_pl.datamodules import Fashion200KDataModule, fashion200k

from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import MissingDataError
from unifashion_pl.data.samples import PairBatch
from unifashion_pl.data.shards import write_shards

LABELS = "labels/dress_test_detect_all.txt"


def write_fashion200k(root: Path) -> Path:
    """Two products of every category with two views each: 20 images to train on and 20 to test on."""
    (root / "labels").mkdir(parents=True)
    for s, split in enumerate(fashion200k.SPLITS):
        for c, category in enumerate(fashion200k.CATEGORIES):
            lines = []
            for product in (f"{9 - s}{c}0", f"{9 - s}{c}1"):
                for view in (0, 1):
                    path = f"women/{category}s/long/{product}/{product}_{view}.jpeg"
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    (root / path).write_bytes(jpeg(int(product) + view))
                    lines.append(f"{path}\t-0.5\tred {category} {product}\n")
            (root / f"labels/{category}_{split}_detect_all.txt").write_text("".join(lines))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The checks find it complete."""
    return write_fashion200k(tmp_path / "raw")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with shards; not to be changed."""
    root = write_fashion200k(tmp_path_factory.mktemp("fashion200k") / "raw")
    module(root).prepare_data()
    return root


def module(root: Path, **options: Any) -> Fashion200KDataModule:
    return Fashion200KDataModule(root, **{"batch_size": 4, "eval_batch_size": 6, "image_size": 16, **options})


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_image_is_reported(root: Path, tmp_path: Path, damage: str) -> None:
    assert check("fashion200k", root).complete
    spoil, reason = DAMAGES[damage]
    spoil(root / "women/dresss/long/801/801_1.jpeg")
    report = check("fashion200k", root)
    found = split_of(report, "fashion200k/test")
    assert (report.complete, found.expected, found.usable) == (False, 20, 19)
    assert lost(found) == {("801_1", "image", reason, 1)}
    assert found.groups["dress"] == {"expected": 4, "usable": 3}
    with pytest.raises(MissingDataError, match="801_1: .*dress: 3 of 4.*not comparable"):
        module(root).prepare_data()
    for plan in fashion200k.plans(root):
        index = ShardIndex.load(write_shards(plan, tmp_path / "out", allow_missing=True, progress=False))
        assert [(m["id"], m["reason"]) for m in index.missing] == ([("801_1", reason)] if plan.split == "test" else [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, " is missing: expected one label file per category and split"),
        (b"women/a/b/c.jpeg -0.5 red dress\n", ":1: expected path, score and description separated by tabs"),
        (b"\nwomen/a/b/c.jpeg\t-0.5\n", ":2: expected path, score and description separated by tabs"),
        (b"c.jpeg\t-0.5\tred dress\n", ":1: expected path, score and description"),
        (b"women/a/b/c.jpeg\t-0.5\tcaf\xe9 dress\n", ":1: not UTF-8 text"),
    ],
)
def test_wrong_label_files_are_refused_by_name(root: Path, content: bytes | None, message: str) -> None:
    (root / LABELS).unlink()
    if content is not None:
        (root / LABELS).write_bytes(content)
    with pytest.raises(MissingDataError, match=f"{LABELS}{message}"):
        module(root).prepare_data()
    report = check("fashion200k", root)
    assert not report.complete
    assert LABELS in str(report.problem)


def test_an_absent_root_and_images_listed_twice_are_named(root: Path, tmp_path: Path) -> None:
    assert "dress_train_detect_all.txt is missing" in str(check("fashion200k", tmp_path / "no").problem)
    (root / LABELS).write_text((root / LABELS).read_text() * 2)
    assert "4 images of test are listed twice: 800_0, 800_1, 801_0, 801_1" in str(check("fashion200k", root).problem)


def test_empty_descriptions_and_products_in_both_splits_are_noted(root: Path) -> None:
    (root / LABELS).write_text("women/dresss/long/900/900_0.jpeg\t-0.5\t \n")
    report = check("fashion200k", root)
    assert report.notes == ["1 products stand in more than one split: 900"]
    notes = split_of(report, "fashion200k/test").notes
    assert {"1 images have no description", "the published test split has 29,789 images"} <= set(notes)


def test_images_in_every_mode_become_rgb(root: Path) -> None:
    pictures = odd_pictures((40, 40))
    ids = dict(zip(pictures, (f"8{c}{p}_0" for c in range(5) for p in range(2))))
    for mode, (data, _) in pictures.items():
        next(root.rglob(f"{ids[mode]}.jpeg")).write_bytes(data)
    assert check("fashion200k", root).complete
    data_module = module(root, eval_batch_size=20)
    data_module.prepare_data()
    (batch,) = data_module.val_dataloader()[0]
    for mode, (_, colour) in pictures.items():
        image = batch.images[batch.keys.index(ids[mode])]
        assert image.float().mean((1, 2)).tolist() == pytest.approx(colour, abs=3), mode


def test_images_may_lie_below_a_folder_images(root: Path) -> None:
    (root / "images").mkdir()
    shutil.move(root / "women", root / "images/women")
    assert check("fashion200k", root).complete


def test_training_batches(made: Path) -> None:
    loader = module(made, pixel_size=(24, 20)).train_dataloader().iterables["pairs"]
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    for batch in batches:
        assert isinstance(batch, PairBatch)
        assert (batch.images.shape, batch.images.dtype) == ((4, 3, 16, 16), torch.uint8)
        assert batch.pixels is not None
        assert (batch.pixels.shape, batch.pixels.dtype) == ((4, 3, 24, 20), torch.uint8)
        assert batch.products.tolist() == [int(key.split("_")[0]) for key in batch.keys]
        assert batch.texts == batch.captions == [f"red {c} {int(p)}" for c, p in zip(batch.categories, batch.products)]
        assert batch.styles == ["fashion200k"] * 4
        assert batch.subcategories == ["long"] * 4
        assert batch.dataset == "fashion200k/train"


@pytest.mark.parametrize("world", [1, 3])
def test_ranks_in_training_and_evaluation(made: Path, world: int) -> None:
    parts = [on_rank(module(made, batch_size=2), rank, world) for rank in range(world)]
    seen = [keys(part.train_loader()) for part in parts]
    assert [len(part) for part in seen] == [20 // (2 * world) * 2] * world
    assert len({key for part in seen for key in part}) == sum(map(len, seen))
    expected = sorted(item.key for plan in fashion200k.plans(made) if plan.split == "test" for item in plan.items)
    for stage in ("val_dataloader", "test_dataloader"):
        assert sorted(key for part in parts for loader in getattr(part, stage)() for key in keys(loader)) == expected


def test_training_on_the_test_split_is_refused_also_under_another_name(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "shards/pairs-test", tmp_path / "pairs-train")
    with pytest.raises(ValueError, match=r"fashion200k/test \(pairs\) is an evaluation split: training on it is refused"):
        module(made, shards=tmp_path).train_dataloader()
