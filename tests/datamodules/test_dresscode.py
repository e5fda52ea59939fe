"""Dress Code Multimodal as a part of MGD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.rawdata import write_dresscode, write_vitonhd
from PIL import Image
from readers import check, lost, split_of
from unifashion_pl.datamodules import MGDDataModule


def write_mgd(root: Path) -> Path:
    """VITON-HD with worn and warped sketches (5 + 4 pairs) and Dress Code (9 + 6 pairs)."""
    write_vitonhd(root / "vitonhd")
    for split in ("train", "test"):
        lines = (root / f"vitonhd/{split}_pairs.txt").read_text().splitlines()
        for folder in ("im_sketch", "im_sketch_unpaired"):
            (root / f"vitonhd/{split}/{folder}").mkdir()
        for person, garment in ([Path(n).stem for n in line.split()] for line in lines):
            Image.new("L", (48, 64), 50).save(root / f"vitonhd/{split}/im_sketch/{person}.png")
            Image.new("L", (48, 64), 70).save(root / f"vitonhd/{split}/im_sketch_unpaired/{person}_{garment}.png")
    write_dresscode(root / "dresscode")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mgd(tmp_path / "raw")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with shards; not to be changed."""
    root = write_mgd(tmp_path_factory.mktemp("mgd"))
    module(root).prepare_data()
    return root


def module(root: Path | None, **options: Any) -> MGDDataModule:
    return MGDDataModule(root, **{"batch_size": 2, "eval_batch_size": 6, "image_size": 16, "pixel_size": (64, 48), **options})


def test_masks_of_dress_code_cover_what_is_worn_and_spare_the_face(made: Path) -> None:
    batch = next(iter(module(made).test_dataloader()[2]))
    for key, mask in zip(batch.keys, batch.masks[:, 0]):
        category, number = key.split("-")[0], key.split("-")[1].split("_")[0]
        parse = torch.from_numpy(np.array(Image.open(made / f"dresscode/{category}/label_maps/{number}_4.png")))
        assert mask[parse == {"dresses": 7, "upper_body": 4, "lower_body": 5}[category]].all(), category
        assert not mask[parse == 11].any()


def test_a_bad_file_of_joints_is_reported(root: Path) -> None:
    (root / "dresscode/dresses/keypoints/000500_2.json").write_text('{"keypoints": [[1, 2, 3]]}')
    found = lost(split_of(check("mgd", root), "mgd/test-paired-dresscode"))
    assert found == {("000500", "pose", "has 1 joints", 1)}
