"""Copies of the datasets as mirrors and other projects keep them give the same samples as the authors' own layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from unifashion_pl.datamodules import FashionIQDataModule, VitonHDDataModule
from unifashion_pl.datamodules.checks import check_dataset

from unifashion_pl.wardrobe import WardrobeSpec, write_wardrobe


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    spec = WardrobeSpec(
        products_train=5,
        products_val=4,
        views=2,
        image_size=32,
        fiq_train=4,
        fiq_val=4,
        fiq_gallery=8,
        tryon_train=3,
        tryon_test=3,
        tryon_size=(48, 64),
        short_train=1,
        short_test=1,
    )
    return write_wardrobe(tmp_path_factory.mktemp("w") / "raw", spec=spec, workers=1, progress=False, layouts=["all"])


def copied(raw: Path, name: str, to: Path) -> Path:
    return shutil.copytree(raw / name, to / name)


def test_fashion_iq_by_category_has_the_same_queries_and_gallery(raw: Path, tmp_path: Path) -> None:
    def read(name: str) -> tuple[Any, Any]:
        data = FashionIQDataModule(raw / name, tmp_path / name, image_size=32, batch_size=4, eval_batch_size=100)
        data.prepare_data()
        gallery, queries = (next(iter(loader)) for loader in data.val_dataloader())
        return gallery, queries

    (gallery, queries), (other_gallery, other_queries) = read("fashion-iq"), read("fashion-iq-by-category")
    assert gallery.keys == other_gallery.keys
    assert (queries.texts, queries.target_ids) == (other_queries.texts, other_queries.target_ids)
    assert torch.equal(gallery.images, other_gallery.images)


def tryon(root: Path, shards: Path) -> list[Any]:
    settings: dict[str, Any] = {"image_size": 32, "pixel_size": (64, 48), "batch_size": 1, "eval_batch_size": 9}
    data = VitonHDDataModule(root, shards, **settings)
    data.prepare_data()
    return [next(iter(loader)) for loader in data.test_dataloader()]


def test_viton_hd_with_older_names_has_the_same_pairs(raw: Path, tmp_path: Path) -> None:
    for own, other in zip(*(tryon(raw / name, tmp_path / name) for name in ("viton-hd", "viton-hd-older"))):
        assert own.keys == other.keys
        for name in ("garments", "pixels", "pose", "garment_pixels"):
            assert torch.equal(getattr(own, name), getattr(other, name)), name
        assert (own.masks == other.masks).float().mean() > 0.95


def test_a_person_with_an_exif_orientation_is_upright_like_its_mask(raw: Path, tmp_path: Path) -> None:
    root = copied(raw, "viton-hd", tmp_path)
    path = root / "test/image/50001_00.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, "PNG", exif=exif)
    assert check_dataset("vitonhd", root, progress=False).complete
    own, other = tryon(raw / "viton-hd", tmp_path / "a")[0], tryon(root, tmp_path / "b")[0]
    assert torch.equal(own.pixels, other.pixels)
    assert torch.equal(own.masks, other.masks)
