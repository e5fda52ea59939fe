"""``index build --max-bad`` and ``caption --max-bad``: bad files are named and left out, or all named before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small import images, small_backbone

from unifashion_pl.cli import main
from unifashion_pl.commands.options import Model
from unifashion_pl.gallery import Gallery
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> UniFashionModule:
    """A small model in the place of the one that commands load."""
    torch.manual_seed(0)
    small = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8)).eval()
    monkeypatch.setattr(Model, "load", lambda _: small)
    return small


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten pictures and their CSV; 3 is cut, 7 is not there."""
    for i in range(10):
        Image.fromarray(images(1, 2, seed=i)[0].permute(1, 2, 0).numpy()).resize((40, 40)).save(tmp_path / f"{i}.png")
    (tmp_path / "items.csv").write_text("image\n" + "".join(f"{i}.png\n" for i in range(10)))
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:200])
    (tmp_path / "7.png").unlink()
    return tmp_path


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_an_index_without_the_bad_files_is_that_of_the_others(
    model: UniFashionModule, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["index", "build", "--csv", photos / "items.csv", "--root", photos, "--out", photos / "index"]
    message = failure(capsys, *build)
    assert "1 of 10 images cannot be used, allowed are 0: image" in message
    assert "7.png" in message
    assert [path.name for path in (photos / "index").iterdir()] == [".lock"]
    message = failure(capsys, *build, "--max-bad", 1)  # what is behind a good header is found later
    assert "2 of 10 images cannot be used, allowed are 1" in message
    assert "3.png" in message
    assert "--max-bad 2" in message
    assert "'-1' is not a number" in failure(capsys, *build, "--max-bad=-1")
    main([*map(str, build), "--max-bad", "2"])
    shown = capsys.readouterr()
    assert "2 images are left out" in shown.err
    assert "10 rows read, 8 indexed (8 of them embedded before), 2 left out" in shown.out
    assert Gallery.load(photos / "index", model).ids == [str(i) for i in range(10) if i not in (3, 7)]


def test_captions_are_printed_batch_by_batch_and_bad_files_are_found_before(
    model: UniFashionModule, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def caption(_: UniFashionModule, paths: list[Path], **__: Any) -> list[str]:
        if any(path.name == "9.png" for path in paths):
            raise RuntimeError("out of memory")
        return [f"caption of {path.name}" for path in paths]

    monkeypatch.setattr(UniFashionModule, "caption", caption)
    paths = [photos / f"{i}.png" for i in range(10)]
    message = failure(capsys, "caption", *paths)
    assert "3.png" in message
    assert "7.png" in message
    monkeypatch.setattr("unifashion_pl.commands.paint.BATCH", 4)
    assert main(["caption", *map(str, paths[:9]), "--max-bad", "2"]) in (None, 0)
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [f"{photos}/{i}.png\tcaption of {i}.png" for i in range(9) if i not in (3, 7)]
    assert "2 images are left out" in shown.err
    with pytest.raises(SystemExit):
        main(["caption", *map(str, paths), "--max-bad", "2"])
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_captions_of_nothing_but_bad_files_are_an_error(
    model: UniFashionModule, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = failure(capsys, "caption", photos / "3.png", photos / "7.png", "--max-bad", 2)
    assert "2 images are left out" in message
    assert message.endswith("none of the images can be used\n")
