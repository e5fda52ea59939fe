"""The raw layouts are those of the datasets."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np


def test_raw_layouts_are_those_of_the_datasets(small: Path) -> None:
    with h5py.File(small / "fashiongen/fashiongen_256_256_train.h5") as file:
        assert len(file) == 16
        assert file["input_image"].shape == (12, 32, 32, 3)
        assert file["input_image"].dtype == np.uint8
        assert file["input_description"].shape == (12, 1)
        assert any(b"\xe9" in row[0] for row in file["input_description"][:])
        assert (np.diff(file["input_productID"][:, 0]) >= 0).all()
    for category in ("dress", "shirt", "toptee"):
        for split in ("train", "val", "test"):
            entries = json.loads((small / f"fashion-iq/captions/cap.{category}.{split}.json").read_text("utf-8"))
            gallery = json.loads((small / f"fashion-iq/image_splits/split.{category}.{split}.json").read_text())
            for entry in entries:
                assert len(entry["captions"]) == 2
                assert ("target" in entry) is (split != "test")
                assert {entry["candidate"], entry.get("target", entry["candidate"])} <= set(gallery)
            assert all((small / f"fashion-iq/images/{i}.jpg").is_file() for i in gallery)
    lines = (small / "fashion-iq/captions.train.jsonl").read_text("utf-8").splitlines()
    assert all(json.loads(line)["inputs"] == ["image", "category"] for line in lines)
    labels = (small / "fashion200k/labels/dress_train_detect_all.txt").read_text("utf-8").splitlines()
    path, score, _ = labels[0].split("\t")
    assert (small / "fashion200k" / path).is_file()
    assert float(score) < 0
