"""FashionGen as other projects keep it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from readers import DAMAGES, check, lost, split_of
from unifashion_pl.datamodules import FashionGenDataModule
from unifashion_pl.datamodules.checks_text import report_text

from unifashion_pl.data.plan import MissingDataError
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


def pairs(folder: Path, shards: Path) -> dict[tuple[str, str, str], list[torch.Tensor]]:
    """(name and description, description, split) -> images of its views."""
    data = FashionGenDataModule(folder, shards, batch_size=1, image_size=32, text="name_description")
    data.prepare_data()
    found: dict[tuple[str, str, str], list[torch.Tensor]] = {}
    for loader in (data.train_loader(), data.val_dataloader()[0]):
        for batch in loader:
            for row in range(len(batch)):
                found.setdefault((batch.texts[row], batch.captions[row], batch.dataset), []).append(batch.images[row])
    return found


@pytest.mark.parametrize("variant", ["fame-vil", "fashion-sap"])
def test_fashiongen_of_other_projects_has_the_same_pairs(raw: Path, tmp_path: Path, variant: str) -> None:
    own, other = (pairs(raw / name, tmp_path / name) for name in ("fashiongen", variant))
    assert own.keys() == other.keys()
    for key, images in own.items():
        assert len(images) == len(other[key])
        distances = [min((a.int() - b.int()).abs().float().mean().item() for b in other[key]) for a in images]
        assert max(distances) < 3, key


def test_views_of_a_product_share_a_number_and_splits_do_not(raw: Path, tmp_path: Path) -> None:
    data = FashionGenDataModule(raw / "fame-vil", tmp_path, batch_size=5, image_size=16)
    data.prepare_data()
    train = [n for batch in data.train_loader() for n in batch.products.tolist()]
    val = [n for batch in data.val_dataloader()[0] for n in batch.products.tolist()]
    assert (len(train), len(set(train)), len(val), len(set(val))) == (10, 5, 8, 4)
    assert not set(train) & set(val)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_png_of_fame_vil_is_reported(raw: Path, tmp_path: Path, damage: str) -> None:
    root = copied(raw, "fame-vil", tmp_path)
    spoil, reason = DAMAGES[damage]
    spoil(root / "val/1000001_1.png")
    found = split_of(check("fashiongen", root), "fashiongen/validation")
    assert (found.expected, found.usable, lost(found)) == (8, 7, {("r0000003", "image", reason, 1)})


ENTRY = {"id": 1, "title": "a", "description": "b", "images": ["a.png"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a list of"),
        ("[]", "is empty; expected is a list of {id, title"),
        (json.dumps([{**ENTRY, "images": None}]), "got `null` - at `$[0].images`"),
        (json.dumps([{**ENTRY, "images": ["../a.png"]}]), "entry 0 names the image '../a.png', which leads out"),
        (json.dumps([{**ENTRY, "description": 5}]), "got `int` - at `$[0].description`"),
        (json.dumps([ENTRY, ENTRY]), "1 ids are there twice: 1"),
    ],
)
def test_wrong_lists_of_fame_vil_are_named(raw: Path, tmp_path: Path, content: str, message: str) -> None:
    root = copied(raw, "fame-vil", tmp_path)
    (root / "val_info.json").write_text(content)
    assert message in str(check("fashiongen", root).problem)
    with pytest.raises(MissingDataError, match="val_info.json"):
        FashionGenDataModule(root, tmp_path / "s").prepare_data()


def test_lists_of_fashion_sap_that_disagree_are_noted(raw: Path, tmp_path: Path) -> None:
    root = copied(raw, "fashion-sap", tmp_path)
    assert "productid_list" not in report_text(check("fashiongen", root))
    (root / "train/productid_list.json").write_text("[[0, [0, 1, 2]]]")
    assert "train/productid_list.json disagrees with the HDF5 file, which is used" in report_text(check("fashiongen", root))
    (root / "train/productid_list.json").write_text('{"a": 1}')
    assert "train/productid_list.json is no list of [product, [rows]]" in report_text(check("fashiongen", root))
