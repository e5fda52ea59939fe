"""Dress Code Multimodal, drawn: what its files are in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wardrobe.sizes import SMALL

from unifashion_pl.wardrobe.design import CATEGORIES, JOINTS, write_mgd


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mgd")
    write_mgd(folder, SMALL, 0, lambda function, jobs: [function(*job) for job in jobs])
    return folder / "dresscode"


@pytest.mark.parametrize("category", CATEGORIES)
def test_heads_are_cut_off_labels_are_atr_s_and_joints_have_a_frame_of_their_own(root: Path, category: str) -> None:
    persons = [
        line.split()[0].removesuffix("_0.jpg") for line in (root / category / "train_pairs.txt").read_text().splitlines()
    ]
    assert len(persons) == len(set(persons)) == 2
    for person in persons:
        labels = np.asarray(Image.open(root / category / f"label_maps/{person}_4.png"))
        assert labels.shape == SMALL.tryon_size[::-1]
        assert labels.max() <= 17
        joints = np.array(json.loads((root / category / f"keypoints/{person}_2.json").read_text())["keypoints"])
        found = joints[joints[:, 1] > 0]
        assert joints[0, 1] < 0.05 * JOINTS[1]  # the nose, of whole persons at a sixth of the height
        assert found[:, 0].max() > SMALL.tryon_size[0]
        assert (found[:, :2].max(0) <= JOINTS).all()


@pytest.mark.parametrize("category", CATEGORIES)
def test_unpaired_samples_have_a_sketch_of_the_other_garment_on_the_person(root: Path, category: str) -> None:
    lines = (root / category / "test_pairs_unpaired.txt").read_text().splitlines()
    for person, garment in (line.split() for line in lines):
        assert person.split("_")[0] != garment.split("_")[0]
        name = f"{person.removesuffix('.jpg')}_{garment.removesuffix('.jpg')}.png"
        assert np.asarray(Image.open(root / category / "im_sketch_unpaired" / name)).any()
