"""``unifashion data``: the toy wardrobe, what of a dataset is there, shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unifashion_pl.cli import main


def test_wardrobe_check_and_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    main(["data", "wardrobe", "--out", "raw", "--size", "tiny", "--workers", "1"])
    main(["data", "check", "fashiongen", "--root", "raw/fashiongen", "--json", "check.json"])
    assert json.loads(Path("check.json").read_text())
    main(["data", "shards", "fashiongen", "--root", "raw/fashiongen", "--out", "shards"])
    assert list(Path("shards").rglob("index.json"))
    next(Path("raw/fashion-iq/images").glob("*.jpg")).unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", "fashioniq", "--root", "raw/fashion-iq"])
    assert stopped.value.code == 1
    assert "missing" in capsys.readouterr().out
