"""Writing the wardrobe: the same bytes, all or nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from wardrobe.sizes import SMALL

from unifashion_pl.wardrobe import (
    write_wardrobe,
)


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_same_bytes_for_one_and_two_processes(small: Path, tmp_path: Path) -> None:
    two = write_wardrobe(tmp_path / "two", spec=SMALL, workers=2, progress=False)
    assert digest(small) == digest(two)


def test_a_finished_wardrobe_is_reused_and_another_one_refused(small: Path, tmp_path: Path) -> None:
    before = (small / "wardrobe.json").stat().st_mtime_ns
    assert write_wardrobe(small, spec=SMALL, progress=False) == small
    assert (small / "wardrobe.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="another size, seed or version"):
        write_wardrobe(small, spec=SMALL, seed=1, progress=False)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="not empty"):
        write_wardrobe(tmp_path, spec=SMALL, progress=False)
    with pytest.raises(ValueError, match="known are tiny, .*demo"):
        write_wardrobe(tmp_path / "x", spec="huge")


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unifashion_pl.wardrobe.write.write_vitonhd", stop)
    with pytest.raises(KeyboardInterrupt):
        write_wardrobe(tmp_path / "w", spec=SMALL, workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []
