"""``unifashion generate`` and its kin: where the picture goes is looked at before anything is painted."""

from __future__ import annotations

from pathlib import Path

import pytest
from person.rtmo import stand_in
from PIL import Image

from unifashion_pl.cli import main


def test_a_folder_is_made_and_a_name_without_a_kind_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "red", "--model", str(tmp_path / "no-model"), "--out", str(tmp_path / "picture")])
    assert "the ending says no kind of picture; use .png or .jpg" in capsys.readouterr().err
    out = tmp_path / "new/folder/red.png"
    main(["generate", "red dress", "--steps", "2", "--sampler", "fast", "--out", str(out)])
    assert Image.open(out).size == (64, 64)


def test_a_photo_alone_is_enough_and_its_inputs_are_shown_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="the extra pose")
    names = {name: tmp_path / f"{name}.png" for name in ("person", "garment", "shown", "out")}
    Image.new("RGB", (280, 392), (120, 90, 255)).save(names["person"])
    Image.new("RGB", (280, 392), (200, 30, 40)).save(names["garment"])
    model = stand_in(tmp_path, [(0.9, 0.1, 1.0)])
    asked = [
        "tryon",
        str(names["person"]),
        str(names["garment"]),
        "--sampler",
        "fast",
        "--steps",
        "2",
        "--out",
        str(names["out"]),
    ]
    main([*asked, "--pose-model", str(model), "--show-inputs", str(names["shown"])])
    assert Image.open(names["out"]).size == (280, 392)
    assert Image.open(names["shown"]).size == (4 * 80, 112)
    for more, said in (
        (["--pose-model", str(model), "--pose", "x.json"], "name one of both"),
        (["--pose-model", str(tmp_path / "none.onnx")], "no model"),
        (["--box", "50", "100", "200", "300", "--show-inputs", str(tmp_path / "shown")], "the ending says no kind of picture"),
    ):
        with pytest.raises(SystemExit):
            main([*asked, *more])
        assert said in capsys.readouterr().err
