"""The catalogue of clothing photos, made of a source of the same form with two drawings."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

import pytest
import real_data
import torch
from PIL import Image


@pytest.fixture
def clothing(tmp_path: Path) -> Path:
    rows = [
        ("a.jpg", "Longsleeve", "7", "train", "Outwear", (70, 105, 165)),
        ("b.jpg", "Hat", "8", "validation", "", (225, 150, 165)),
        ("c.jpg", "Hat", "9", "extra", "", (0, 0, 0)),
    ]
    with (tmp_path / "clothing.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "sender_id", "split", "label_small"])
        writer.writerows(row[:5] for row in rows)
    with tarfile.open(tmp_path / "clothing-00.tar", "w") as archive:
        for name, *_, colour in rows:
            content = io.BytesIO()
            Image.new("RGB", (20, 30), colour).save(content, "JPEG")
            entry = tarfile.TarInfo(name)
            entry.size = content.tell()
            content.seek(0)
            archive.addfile(entry, content)
    return tmp_path


def test_photos_of_train_and_validation_become_rows_with_measured_colours(clothing: Path, tmp_path: Path) -> None:
    out = tmp_path / "work"
    assert real_data.prepare(clothing, out) == out / "items.csv"
    (rest,), (test,) = real_data.photos(out, test=False), real_data.photos(out, test=True)
    assert (rest["category"], rest["colour"], rest["sender"], rest["split"]) == ("piece of outerwear", "blue", "7", "")
    assert (rest["title"], rest["text"]) == ("a photo of a piece of outerwear", "a photo of a blue piece of outerwear")
    assert (test["id"], test["category"], test["colour"], test["split"]) == ("b", "hat", "pink", "test")
    assert sorted(path.name for path in (out / "photos").iterdir()) == ["a.jpg", "b.jpg"]


def test_each_colour_term_names_itself() -> None:
    for name, rgb in real_data.COLOURS.items():
        assert real_data.measured_colour(Image.new("RGB", (10, 10), rgb)) == name


def test_positives_are_equal_words() -> None:
    assert torch.equal(real_data.positives(["x", "y"], ["y", "x", "y"]), torch.tensor([[0, 1, 0], [1, 0, 1]]).bool())
