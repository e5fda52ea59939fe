"""Scripts that read what was painted and searched in the toy wardrobe, on its smallest size. What they print is asked for where the answer is known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import robustness
import torch
import toy_edits
import toy_looks
import toy_table
from PIL import Image
from unifashion_pl.datamodules.wardrobe import WardrobeDataModule

from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.records import ResultRecord, write_records


@pytest.fixture(scope="module")
def persons() -> WardrobeDataModule:
    sizes = {"image_size": 64, "pixel_size": (64, 64), "tryon_pixel_size": toy_looks.SIZE}
    data = WardrobeDataModule(size="tiny", pairs=False, tryon=True, batch_size=4, tryon_batch_size=4, num_workers=0, **sizes)
    data.prepare_data()
    data.setup("test")
    data.setup("fit")
    return data


@torch.no_grad()
def test_looks_and_errors_of_the_shipped_model(persons: WardrobeDataModule, capsys: pytest.CaptureFixture[str]) -> None:
    looker = toy_looks.Looker(["tiny"])
    test = list(toy_looks.batches(persons.test_dataloader()))
    truth = json.loads((persons.folder / "raw/wardrobe.json").read_text("utf-8"))["truth"]["viton-hd"]
    toy_looks.made_out(looker, test, {name: values["pattern"] for name, values in truth.items()})
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    errors = {tuple(row[:2]): [float(value) for value in row[2:5]] for row in rows[1:]}
    kind = next(kind for _, kind in errors)
    assert errors["| shown", kind][0] < errors["| withheld", kind][0] / 2  # the garment's photo is what is read
    assert errors["| withheld", kind] == sorted(errors["| withheld", kind], reverse=True)  # less noise, fewer errors
    training = next(iter(toy_looks.batches(next(iter(persons.train_dataloader())))))
    toy_looks.looks(looker, [training], 900)
    shown = {
        line.split(" | ")[0]: line.split(" | ")[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")
    }
    assert shown["| as drawn"][:4] == ["0.000"] * 4
    assert float(shown["| place 2 (28 × 20)"][0]) < float(shown["| the same cell (28 × 20)"][0]) / 2


def test_edits_that_are_the_truth_are_read_like_drawings(
    persons: WardrobeDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.stem for path in (persons.folder / "raw/viton-hd/test/image").iterdir())
    lines = []
    (tmp_path / "images").mkdir()
    (tmp_path / "predictions").mkdir()
    for name, pictures in zip(names, toy_edits.load(persons.folder / "raw/viton-hd/test", names)):
        Image.fromarray(pictures.movedim(0, -1).numpy()).save(tmp_path / "images" / f"{name}.png")
        given = {"person": f"{name}.png", "garment": f"{name}.png", "truth": f"{name}.png"}
        lines.append({"id": f"{name}__{name}", "paired": True, "given": given, "made": {"tryon": {"file": f"{name}.png"}}})
    written = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "predictions/edits.jsonl").write_text(written, "utf-8")
    sheet = tmp_path / "sheet.png"
    said = ["toy_edits.py", str(tmp_path), "--wardrobe", str(persons.folder), "--epochs", "2", "--picture", str(sheet)]
    monkeypatch.setattr("sys.argv", said)
    toy_edits.main()
    rows = dict(re.findall(r"^\| ([^|]+) \| (.+)$", capsys.readouterr().out, re.MULTILINE))
    assert rows["tryon"] == rows["held-out drawings"]
    with Image.open(sheet) as picture:
        assert picture.size == (4 * 2 * toy_edits.SIZE[1], 34 + len(names) * 2 * toy_edits.SIZE[0])


def test_a_folder_without_edits_is_named(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions/edits.jsonl").write_text("", "utf-8")
    with pytest.raises(SystemExit, match="holds no edits"):
        toy_edits.rows_of(tmp_path, {})


@pytest.mark.slow
def test_robustness_prints_every_category_s_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["robustness.py", "--size", "tiny", "--rounds", "2", "--out", str(tmp_path)])
    robustness.main()
    said = capsys.readouterr().out
    for category in robustness.CATEGORIES:
        assert f"wardrobe-{category}" in (tmp_path / category / "results.json").read_text("utf-8")
    assert re.search(r"^\| changed/\S* \| \d", said, re.MULTILINE) or re.search(r"^\| R@10\S* \| \d", said, re.MULTILINE)


def test_the_table_of_several_seeds_has_mean_and_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for number, value in enumerate((70.0, 72.0, 74.0)):
        under = Protocol("fashiongen_full", details=(("images", "9"), ("score", "itc")))
        record = ResultRecord("t2i/R@10", value, "percent", 600, str(under))
        (tmp_path / str(number)).mkdir()
        files.append(str(tmp_path / str(number) / "results.json"))
        write_records(Path(files[-1]), [record])
    monkeypatch.setattr("sys.argv", ["toy_table.py", *files])
    toy_table.main()
    assert "| 72.0 ± 2.0 | 70.0, 72.0, 74.0 |" in capsys.readouterr().out
