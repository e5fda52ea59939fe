"""An export's folder: what stands in it is enough for others, and nothing else is lost for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import images

from unifashion_pl.export.folder import _refuse_others
from unifashion_pl.inference.exported import ExportedModel


@pytest.mark.slow
def test_pictures_by_the_steps_that_it_states(exported: Path) -> None:
    """By Pillow and the numbers of ``export.json``: bytes within 1."""
    told = json.loads((exported / "export.json").read_text())
    side, ratio = told["size"], told["pad_ratio"]
    picture = Image.fromarray(images(1, 90)[0].permute(1, 2, 0).numpy()).resize((60, 101))
    bar = int((101 / ratio - 60) / 2)
    padded = Image.new("RGB", (60 + 2 * bar, 101))
    padded.paste(picture, (bar, 0))
    width, height = (side * n // min(padded.size) for n in padded.size)
    small = padded.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    wanted = np.asarray(small.crop((left, top, left + side, top + side))).transpose(2, 0, 1).astype(int)
    found = ExportedModel(exported).pixels_of([picture])["images"][0]
    assert np.abs(found - wanted).max() <= 1
    assert len(told["pixels"]) == 5
    assert len(told["words"]) == 4


@pytest.mark.slow
def test_folders_of_others_are_left_alone(exported: Path, tmp_path: Path) -> None:
    _refuse_others(exported)
    _refuse_others(tmp_path)
    _refuse_others(tmp_path / "new")
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError, match="holds other files"):
        _refuse_others(tmp_path)
