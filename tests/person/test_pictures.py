"""Pictures that users hand in for try-on and design: one guard for paths and for images that they opened themselves."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from data.rawdata import jpeg
from PIL import Image

from unifashion_pl.person.pictures import read_picture
from unifashion_pl.person.problems import InputError


def test_a_cut_photo_is_named_as_a_file_and_as_a_lazily_opened_image(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(jpeg(0, 200, 200)[:900])
    with pytest.raises(InputError, match=r"person .*cut\.jpg: truncated"):
        read_picture("person", tmp_path / "cut.jpg")
    with Image.open(tmp_path / "cut.jpg") as lazy, pytest.raises(InputError, match="person is no readable picture: truncated"):
        read_picture("person", lazy)
    with pytest.raises(FileNotFoundError, match="person: no file"):
        read_picture("person", tmp_path)


def test_masks_and_label_maps_keep_their_mode_and_the_users_image_stays(tmp_path: Path) -> None:
    labels = Image.new("P", (4, 2), 3)
    labels.putpalette([0, 0, 0] * 5)
    buffer = BytesIO()
    labels.save(buffer, "PNG")
    (tmp_path / "parse.png").write_bytes(buffer.getvalue())
    for value in (tmp_path / "parse.png", labels):
        read = read_picture("parse", value)
        assert (read.mode, read.getpixel((0, 0))) == ("P", 3)
        assert read is not labels
