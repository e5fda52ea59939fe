"""Tar files of others, written by WebDataset's own writer."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
import webdataset

from unifashion_pl.data import tars
from unifashion_pl.data.tars import NAME, TarTable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tars of 3 and 2 samples, headers of the kind that carry further records."""
    for number, size in enumerate((3, 2)):
        with webdataset.TarWriter(str(tmp_path / f"part-{number}.tar")) as writer:
            for i in range(size):
                writer.write(
                    {
                        "__key__": f"a/{number}{i}",
                        "JPG": bytes([i]) * 700,
                        "txt": f"text {number}{i}",
                        "json": {"caption": f"c{i}"},
                    }
                )
    return tmp_path


def test_samples_are_those_of_webdataset_by_number(folder: Path) -> None:
    table = TarTable(folder)
    theirs = [*webdataset.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=False)]
    assert table.blocks == [3, 2]
    assert [row["__key__"] for row in map(table.__getitem__, range(5))] == [sample["__key__"] for sample in theirs]
    for row, sample in zip(map(table.__getitem__, range(5)), theirs):
        assert (row["jpg"], row["txt"], row["json.caption"]) == (
            sample["jpg"], sample["txt"].decode(), json.loads(sample["json"])["caption"])  # fmt: skip
    assert len(TarTable(str(folder / "part-1*.tar"))) == len(TarTable([folder / "part-1.tar"])) == 2
    with pytest.raises(IndexError, match="row 5 of 5"):
        table[5]


def test_headers_are_scanned_once_and_again_where_a_tar_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[str] = []
    scan = tars.scan
    monkeypatch.setattr(tars, "scan", lambda path: (scanned.append(path.name), scan(path))[1])
    TarTable(folder)
    TarTable(folder)
    assert scanned == ["part-0.tar", "part-1.tar"]
    os.utime(folder / "part-1.tar", (1, 1))
    (folder / "moved").mkdir()
    assert len(TarTable(folder)) == 5
    assert scanned[2:] == ["part-1.tar"]
    (folder / NAME).write_text("{")
    assert len(TarTable(folder)) == 5


def test_what_cannot_be_read_by_place_is_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no tar files"):
        TarTable(folder / "nothing-*.tar")
    whole = (folder / "part-0.tar").read_bytes()
    (folder / "part-1.tar").write_bytes(whole[: len(whole) // 2 - 300])
    with pytest.raises(ValueError, match=r"part-1.tar is no tar file .* copy it again if it is cut off"):
        TarTable(folder)
    (folder / "part-1.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(ValueError, match="unpack it if it is compressed"):
        TarTable(folder)
