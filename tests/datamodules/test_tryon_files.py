"""Lists that VITON-HD and Dress Code have in common."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data.rawdata import write_vitonhd
from readers import check
from unifashion_pl.datamodules import VitonHDDataModule

from unifashion_pl.data.plan import MissingDataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """5 training and 4 test pairs, pictures of 48 × 64; the checks find it complete."""
    return write_vitonhd(tmp_path / "raw")


def module(root: Path, **options: Any) -> VitonHDDataModule:
    settings = {"batch_size": 2, "eval_batch_size": 3, "image_size": 16, "pixel_size": (64, 48), **options}
    return VitonHDDataModule(root, **settings)


def absent(path: Path) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "train_pairs.txt is missing .found: the folder does not exist"),
        (absent(Path("test_pairs.txt")), "test_pairs.txt is missing .found: captions.json, test, train, train_pairs.txt"),
        (absent(Path("test")), "none of the listed pairs has a file image/{}.jpg or cloth/{}.jpg"),
        (absent(Path("train/cloth")), "none of the listed pairs has a file cloth/{}.jpg"),
        (lambda root: (root / "train_pairs.txt").write_text(""), "none of the listed pairs"),
        (
            lambda root: (root / "test_pairs.txt").write_text("00500_00.jpg\n"),
            "test_pairs.txt:1: expected `person.jpg garment.jpg`",
        ),
        (lambda root: (root / "test_pairs.txt").write_text("a b\na b\n"), "test_pairs.txt:2: .*a.* second time"),
        (lambda root: (root / "test_pairs.txt").write_bytes(b"\xff\xfe\x00a"), "test_pairs.txt is not UTF-8"),
    ],
)
def test_what_is_wrong_with_the_lists_is_named(root: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(root)
    report = check("vitonhd", root)
    assert not report.complete
    with pytest.raises(MissingDataError, match=message) as caught:
        module(root).prepare_data()
    assert report.problem == str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"00500": null}', '{"00500": "red top"}', '{"00500": ["red", null]}', '{"00500": [1]}']
)
def test_phrases_of_another_shape_are_refused(root: Path, content: str) -> None:
    (root / "captions.json").write_text(content)
    assert "captions.json is not garment -> list of phrases" in str(check("vitonhd", root).problem)
    with pytest.raises(MissingDataError, match="captions.json"):
        module(root).prepare_data()
