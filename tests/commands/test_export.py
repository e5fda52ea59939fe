"""``unifashion export`` and what an index answers through it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from small import images

from unifashion_pl.cli import main
from unifashion_pl.commands.export import Photos


@pytest.fixture
def shop(tmp_path: Path) -> list[str]:
    """A CSV of six pictures -> the options that name it."""
    for number, picture in enumerate(images(6, 40)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    lines = [f"{number}.png,a {word} dress" for number, word in enumerate(("red", "blue", "green", "red", "white", "black"))]
    (tmp_path / "items.csv").write_text("\n".join(["image,text", *lines]), encoding="utf-8")
    return ["--csv", str(tmp_path / "items.csv"), "--root", str(tmp_path)]


@pytest.mark.slow
def test_an_index_of_the_model_is_asked_through_its_export(
    exported: Path, retriever: Path, shop: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = str(tmp_path / "index")
    main(["index", "build", *shop, "--out", index, "--model", str(retriever)])
    for asked in (
        ["--image", str(tmp_path / "2.png")],
        ["--text", "a red dress"],
        ["--image", str(tmp_path / "1.png"), "--text", "is red"],
    ):
        found = []
        for model in (retriever, exported):
            capsys.readouterr()
            main(["index", "search", index, *asked, "--model", str(model), "-k", "3"])
            found.append([line.split("\t") for line in capsys.readouterr().out.splitlines()])
        assert [(line[2], line[1][:5]) for line in found[0]] == [(line[2], line[1][:5]) for line in found[1]], asked
    page = tmp_path / "page.html"
    main(["index", "search", index, "--text", "a red dress", "--html", str(page), "--model", str(exported)])
    assert "data:image/jpeg" in page.read_text()
    with pytest.raises(SystemExit):
        main(["index", "build", *shop, "--out", str(tmp_path / "other"), "--model", str(exported)])
    assert "is an export, which `index search` asks" in capsys.readouterr().err


def test_what_it_is_compared_on(shop: list[str], tmp_path: Path) -> None:
    given = Photos(csv=tmp_path / "items.csv", root=tmp_path).material()
    assert given is not None
    assert (len(given.images), sorted(given.texts)[0], len(given.texts)) == (6, "a black dress", 5)
    folder = Photos(photos=tmp_path, limit=4).material()
    assert folder is not None
    assert len(folder.images) == 4
    assert len(folder.texts) > 10
    assert Photos().material() is None
    for wrong, message in (
        (Photos(photos=tmp_path, csv=tmp_path / "items.csv", root=tmp_path), "not both"),
        (Photos(csv=tmp_path / "items.csv"), "go together"),
        (Photos(photos=tmp_path, limit=1), "has 1 pictures"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong.material()
    (tmp_path / "7.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"7.png"):
        Photos(photos=tmp_path).material()
    with pytest.raises(ValueError, match="is no folder"):
        Photos(photos=tmp_path / "absent").material()


@pytest.mark.parametrize("more", [["--dtype", "int8"], ["--part", "text"], ["--photos", "absent"], ["--limit", "3"]])
def test_an_adapter_takes_no_options_of_graphs(more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "tiny", "--out", str(tmp_path / "out"), "--format", "peft", *more])
    assert "--format peft writes the LoRA as it is" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
