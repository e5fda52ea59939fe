from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from data.rawdata import picture, write_fashiongen
from readers import check, keys, lost, on_rank, split_of
from unifashion_pl.datamodules import FashionGenDataModule, fashiongen
from unifashion_pl.datamodules.checks_text import report_text

from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import MissingDataError
from unifashion_pl.data.samples import PairBatch
from unifashion_pl.data.shards import write_shards

TRAIN, VALIDATION = (f"fashiongen_256_256_{split}.h5" for split in fashiongen.SPLITS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """12 products with 3 views each in both splits; the checks find it complete."""
    return write_fashiongen(tmp_path / "raw")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with shards; not to be changed."""
    root = write_fashiongen(tmp_path_factory.mktemp("fashiongen"))
    module(root).prepare_data()
    return root


def module(root: Path, **options: Any) -> FashionGenDataModule:
    return FashionGenDataModule(root, **{"batch_size": 8, "eval_batch_size": 10, "image_size": 16, **options})


def replace(path: Path, name: str, data: Any, **options: Any) -> None:
    """Put other data in the place of a dataset; None takes it out."""
    with h5py.File(path, "r+") as file:
        del file[name]
        if data is not None:
            file.create_dataset(name, data=data, **options)


def column(path: Path, name: str) -> Any:
    with h5py.File(path) as file:
        return file[name][()]


# bad files


def absent(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "expected one file fashiongen_256_256_train.h5, found 0 such files .the folder does not exist"),
        (absent(TRAIN), f"expected one file fashiongen_256_256_train.h5, found 0 such files .{VALIDATION}"),
        (absent(VALIDATION), f"expected one file fashiongen_256_256_validation.h5, found 0 such files .{TRAIN}"),
        (lambda root: shutil.copy(root / TRAIN, root / "copy_train.h5"), "found 2 such files .copy_train.h5, fashiongen"),
        (lambda root: (root / TRAIN).write_bytes(b""), r"train.h5 .0 bytes. is not a complete HDF5 file.*Download it again"),
        (lambda root: (root / TRAIN).write_text("<html>"), r"train.h5 .6 bytes. is not a complete HDF5 file"),
        (
            lambda root: (root / TRAIN).write_bytes((root / TRAIN).read_bytes()[:60_000]),
            r"train.h5 .60,000 bytes. is not a complete HDF5 file: .*truncated",
        ),
    ],
)
def test_absent_and_broken_files_are_named(root: Path, spoil: Callable[[Path], object], message: str) -> None:
    assert check("fashiongen", root).complete
    spoil(root)
    with pytest.raises(MissingDataError, match=message) as caught:
        module(root).prepare_data()
    report = check("fashiongen", root)
    assert (report.complete, report.splits, report.problem) == (False, [], str(caught.value))


@pytest.mark.parametrize("name", fashiongen.NEEDED)
def test_an_absent_dataset_of_the_file_is_named_with_those_that_are_there(root: Path, name: str) -> None:
    replace(root / VALIDATION, name, None)
    others = ", ".join(sorted(set(fashiongen.NEEDED) - {name}))
    assert f"{VALIDATION}: lacks {name}; it has {others}" in str(check("fashiongen", root).problem)
    with h5py.File(root / VALIDATION, "r+") as file:
        file.create_group(name)
    assert f"{VALIDATION}: lacks {name}; it has" in str(check("fashiongen", root).problem)


PIXELS = np.zeros((36, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("input_image", PIXELS[..., 0], r"input_image is uint8 \(36, 32, 32\), expected uint8 \(rows, height, width, 3\)"),
        ("input_image", PIXELS[..., :1], r"input_image is uint8 \(36, 32, 32, 1\)"),
        ("input_image", PIXELS[..., [0, 1, 2, 2]], r"input_image is uint8 \(36, 32, 32, 4\)"),
        ("input_image", PIXELS.astype(np.float32), r"input_image is float32 \(36, 32, 32, 3\)"),
        ("input_image", 5, r"input_image is int64 \(\)"),
        ("input_image", PIXELS[:30], r"input_productID has the shape \(36, 1\), input_image \(30, 32, 32, 3\)"),
        ("input_name", np.array([[b"x"]] * 35), r"input_name has the shape \(35, 1\), input_image \(36,"),
        ("input_name", b"x", r"input_name has the shape \(\), input_image \(36,"),
        ("input_productID", np.array([[b"abc"]] * 36), r"input_productID.*expected whole numbers.*abc"),
    ],
)
def test_datasets_of_another_shape_are_named(root: Path, name: str, data: Any, message: str) -> None:
    replace(root / TRAIN, name, data)
    with pytest.raises(MissingDataError, match=message):
        list(fashiongen.plans(root))
    assert not check("fashiongen", root).complete


def test_rows_of_a_product_that_are_not_consecutive_are_refused(root: Path) -> None:
    products = column(root / VALIDATION, "input_productID")
    products[20] = products[4]
    replace(root / VALIDATION, "input_productID", products)
    message = (
        f"{VALIDATION}: product {int(products[20, 0])} comes back at row 20; rows of a product are expected to be consecutive"
    )
    assert message in str(check("fashiongen", root).problem)


def test_a_damaged_chunk_is_reported_and_takes_only_its_rows(root: Path, tmp_path: Path) -> None:
    path = root / VALIDATION
    replace(path, "input_image", column(path, "input_image"), chunks=(1, 32, 32, 3), compression="gzip")
    with h5py.File(path) as file:
        places = [file["input_image"].id.get_chunk_info(row).byte_offset for row in (5, 9)]
    with open(path, "r+b") as raw:
        for place in places:
            raw.seek(place)
            raw.write(bytes(40))
    report = check("fashiongen", root)
    found = split_of(report, "fashiongen/validation")
    assert (report.complete, found.expected, found.usable) == (False, 36, 34)
    assert {(bad.id, bad.role) for bad in found.unusable} == {("r0000005", "image"), ("r0000009", "image")}
    assert all("damaged HDF5 chunk" in bad.reason for bad in found.unusable)
    assert "validation, pairs: 2 of 36 are lost" in report_text(report)
    with pytest.raises(MissingDataError, match=r"2 of 36 pairs cannot be built .*r0000005: damaged HDF5 chunk"):
        module(root).prepare_data()
    plan = next(p for p in fashiongen.plans(root) if p.split == "validation")
    index = ShardIndex.load(write_shards(plan, tmp_path / "out", allow_missing=True, progress=False))
    assert (index.expected, index.samples) == (36, 34)
    assert [(bad["id"], bad["role"]) for bad in index.missing] == [("r0000005", "image"), ("r0000009", "image")]


def test_a_file_without_rows_is_not_complete(root: Path) -> None:
    with h5py.File(root / VALIDATION, "r+") as file:
        for name in fashiongen.NEEDED:
            empty = file[name][:0]
            del file[name]
            file[name] = empty
    report = check("fashiongen", root)
    assert not report.complete
    assert "0 rows, 0 products" in report_text(report)
    with pytest.raises(MissingDataError, match="none of the 0 pairs is usable"):
        module(root).prepare_data()


def test_rows_without_a_description_are_counted(root: Path) -> None:
    texts = column(root / VALIDATION, "input_description")
    texts[:4] = b" "
    replace(root / VALIDATION, "input_description", texts)
    assert "4 rows have no description" in split_of(check("fashiongen", root), "fashiongen/validation").notes
    data = module(root)
    data.prepare_data()
    batch = next(iter(data.val_dataloader()[0]))
    assert batch.texts[:5] == ["Dress 0", "Dress 0", "Dress 0", "Dress 1", "Dress 1. Long sleeves. Number 1. Café"]
    assert batch.captions[:4] == [""] * 4


def test_products_in_both_splits_and_other_counts_than_published_are_noted(root: Path) -> None:
    products = column(root / VALIDATION, "input_productID")
    products[:3] = 7
    replace(root / VALIDATION, "input_productID", products)
    report = check("fashiongen", root)
    assert report.complete
    assert report.notes == ["1 products stand in more than one split: 7"]
    assert "the published validation split has 32,528 rows" in split_of(report, "fashiongen/validation").notes
    assert "36 rows, 12 products" in split_of(report, "fashiongen/train").notes
    assert lost(split_of(report, "fashiongen/train")) == set()


# texts


def test_latin_1_and_utf_8_texts_come_out_right_and_are_counted(made: Path) -> None:
    index = ShardIndex.load(made / "shards/pairs-validation")
    assert "3 texts are Latin-1, the others UTF-8" in index.notes
    said = {t.partition(".")[0]: c for b in module(made).val_dataloader()[0] for t, c in zip(b.texts, b.captions)}
    assert said["Dress 1"] == "Long sleeves. Number 1. Café"
    assert said["Dress 2"] == "Long sleeves. Number 2. Café"


@pytest.mark.parametrize("shape", [(36,), (36, 1)])
def test_variable_length_strings_and_flat_columns_are_read(root: Path, shape: tuple[int, ...]) -> None:
    for name in fashiongen.TEXTS:
        texts = np.array([f"{name} é {i}" for i in range(36)], object).reshape(shape)
        replace(root / VALIDATION, name, texts, dtype=h5py.string_dtype())
    replace(root / VALIDATION, "input_productID", np.arange(36).reshape(shape))
    data = module(root)
    data.prepare_data()
    batch = next(iter(data.val_dataloader()[0]))
    assert batch.texts[:2] == ["input_name é 0. input_description é 0", "input_name é 1. input_description é 1"]
    assert batch.subcategories[9] == "input_subcategory é 9"
    assert batch.products.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("text", "caption", "expected"),
    [
        ("name_description", "description", ("Dress 0. Long sleeves. Number 0.", "Long sleeves. Number 0.")),
        ("description", "name_description", ("Long sleeves. Number 0.", "Dress 0. Long sleeves. Number 0.")),
        ("name", "name", ("Dress 0", "Dress 0")),
    ],
)
def test_text_rules(made: Path, text: Any, caption: Any, expected: tuple[str, str]) -> None:
    batch = next(iter(module(made, text=text, caption=caption).val_dataloader()[0]))
    assert (batch.texts[0], batch.captions[0]) == expected


# what the DataModule delivers


def test_training_batches(made: Path) -> None:
    loader = module(made, pixel_size=(24, 20)).train_dataloader().iterables["pairs"]
    batches = list(loader)
    assert len(batches) == len(loader) == 4
    for batch in batches:
        assert isinstance(batch, PairBatch)
        assert len(batch) == len(set(batch.keys)) == 8
        assert (batch.images.shape, batch.images.dtype) == ((8, 3, 16, 16), torch.uint8)
        assert batch.pixels is not None
        assert (batch.pixels.shape, batch.pixels.dtype) == ((8, 3, 24, 20), torch.uint8)
        assert (batch.products.shape, batch.products.dtype) == ((8,), torch.int64)
        assert batch.styles == ["fashiongen"] * 8
        assert batch.dataset == "fashiongen/train"
        for product, name, category, sub in zip(batch.products, batch.texts, batch.categories, batch.subcategories):
            assert name.startswith(f"Dress {int(product)}. ")
            assert (category, sub) == (("DRESSES", "SHORT DRESSES") if product % 2 else ("TOPS", "BLOUSES"))
    assert next(iter(module(made).train_loader())).pixels is None


def test_pictures_are_those_of_their_rows(made: Path) -> None:
    seen = {key: image for b in module(made, image_size=32).train_loader() for key, image in zip(b.keys, b.images)}
    for key, image in seen.items():
        product, view = divmod(int(key[1:]), 3)
        expected = torch.from_numpy(np.array(picture(10 * product + view, 32, 32))).permute(2, 0, 1)
        assert (image.int() - expected.int()).abs().float().mean() < 3


def test_lossless_shards_hold_the_very_pixels(root: Path, tmp_path: Path) -> None:
    for plan in fashiongen.plans(root, lossless=True):
        write_shards(plan, tmp_path / "shards", progress=False)
    images = torch.cat([b.images for b in module(root, shards=tmp_path / "shards", image_size=32).val_dataloader()[0]])
    assert torch.equal(images.permute(0, 2, 3, 1), torch.from_numpy(column(root / VALIDATION, "input_image")))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_rank_has_samples_by_world_and_batch_many_training_batches(made: Path, world: int) -> None:
    parts = [on_rank(module(made, batch_size=5), rank, world).train_loader() for rank in range(world)]
    for _ in range(2):
        seen = [keys(loader) for loader in parts]
        assert [len(part) for part in seen] == [36 // (5 * world) * 5] * world
        assert len({key for part in seen for key in part}) == sum(map(len, seen))


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_delivers_every_view_exactly_once_for_validation_and_test(made: Path, world: int) -> None:
    for stage in ("val_dataloader", "test_dataloader"):
        loaders = [getattr(on_rank(module(made), rank, world), stage)() for rank in range(world)]
        seen = [(k, int(p)) for (loader,) in loaders for b in loader for k, p in zip(b.keys, b.products)]
        assert sorted(key for key, _ in seen) == [f"r{row:07d}" for row in range(36)]
        assert Counter(product for _, product in seen) == {100 + p: 3 for p in range(12)}


def test_training_on_validation_is_refused_also_under_another_name(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "shards/pairs-validation", tmp_path / "pairs-train")
    with pytest.raises(ValueError, match=r"fashiongen/validation \(pairs\) is an evaluation split: training on it is refused"):
        module(made, shards=tmp_path).train_dataloader()


def test_shards_are_made_once_and_their_absence_is_named(made: Path, tmp_path: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in (made / "shards").rglob("*.*")}
    module(made).prepare_data()
    assert {path: path.stat().st_mtime_ns for path in (made / "shards").rglob("*.*")} == times
    assert any(path.suffix == ".tar" for path in times)
    with pytest.raises(FileNotFoundError, match="FashionGenDataModule: no shards for pairs-train, pairs-validation in None"):
        FashionGenDataModule().prepare_data()
