"""The reader of RTMO's form on a stand-in file of that form, which finds joints where three colours are; not the published model."""

from __future__ import annotations

from pathlib import Path

import pytest
from person.rtmo import PLACES, stand_in
from PIL import Image, ImageDraw

from unifashion_pl.person import detect
from unifashion_pl.person.detect import PoseDetector
from unifashion_pl.person.problems import InputError

pytest.importorskip("onnxruntime", reason="the extra pose")


def photo(blue: int = 255, size: tuple[int, int] = (300, 600)) -> Image.Image:
    picture = Image.new("RGB", size, (0, 0, blue))
    ImageDraw.Draw(picture).rectangle((100, 150, 200, 330), fill=(180, 0, blue))
    return picture


def test_joints_are_those_of_the_file_in_pixels_of_the_photo(tmp_path: Path) -> None:
    pose = PoseDetector(stand_in(tmp_path, [(0.9, 0.0, 1.0)]))(photo())
    found = pose.joints()
    assert pose.format == "coco18"
    assert pose.size == (600, 300)
    for name, (x, y) in PLACES.items():
        assert found[name] == pytest.approx((x * 600, y * 600), abs=0.01)
    assert found["neck"] == pytest.approx((180, 150), abs=0.01)
    assert "left_ankle" not in found


def test_the_most_prominent_of_several_is_taken(tmp_path: Path) -> None:
    detector = PoseDetector(stand_in(tmp_path, [(0.6, 0.5, 0.5), (0.9, 0.0, 0.9), (0.8, 0.01, 0.88)]))
    with pytest.warns(UserWarning, match="shows 2 persons"):
        pose = detector(photo(size=(600, 600)))
    assert pose.joints()["nose"] == pytest.approx((0.27 * 600, 0.09 * 600), abs=0.01)


def test_nobody_and_joints_that_are_not_sure_are_sentences_with_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shows nobody.*at best 0 % sure.*box= or mask=") as caught:
        PoseDetector(stand_in(tmp_path, [(0.9, 0.0, 1.0)]))(photo(blue=0))
    assert caught.value.picture is not None
    body = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    with pytest.raises(InputError, match=r"nose, .*Expected: shoulders and hips"):
        PoseDetector(stand_in(tmp_path, [(0.9, 0.0, 1.0)], missing=body))(photo())


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="rtmo-s"):
        PoseDetector(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match=r"cannot be read .*expected a model of RTMO"):
        PoseDetector(tmp_path / "text.onnx")
    path = stand_in(tmp_path, [(0.9, 0.0, 1.0)])
    monkeypatch.setattr(detect, "LARGEST", 100)
    with pytest.raises(ValueError, match="at most 100"):
        PoseDetector(path)
