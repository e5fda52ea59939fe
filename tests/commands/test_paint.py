"""``unifashion generate`` and its kin: where the picture goes is looked at before anything is painted."""

from __future__ import annotations

from pathlib import Path

import pytest
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
