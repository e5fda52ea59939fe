"""The benchmark of exports, on a text model of one layer."""

from __future__ import annotations

from pathlib import Path

import exporting
import pytest
from PIL import Image
from small import images

from unifashion_pl.export.parity import Alike, Apart, Parity


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts by torch.export alone, one at a time."""
    monkeypatch.setitem(exporting.SCALES, "tiny", (["text"], (("torch", "fp32"),), (1, 2), 1))


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_row_for_each_variant_and_its_losses(retriever: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for number, picture in enumerate(images(3, 40)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    exporting.main(["--scale", "tiny", "--model", str(retriever), "--photos", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{retriever} on 3 pictures and")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:5]]
    assert {len(row) for row in cells} == {8}
    assert [row[0] for row in cells] == ["", "---", "eager", "torch fp32"]
    assert float(cells[3][2]) < 1e-5
    assert all(float(row[at]) > 0 for row in cells[2:] for at in (6, 7))


def test_goals_compare_with_the_eager_model(monkeypatch: pytest.MonkeyPatch) -> None:
    report = Parity(
        "drawn", 2, 2, "onnx", "fp32", 1, 1, {"text": Apart(2, 2e-7, 1, 1)}, {"text": Alike(2, 10, 1, 1, 0.95, 1)}, {}, 1
    )
    milliseconds = {("text", 1): {"eager": 6.0, "onnx fp32": 2.0, "onnx int8": 1.0}}
    monkeypatch.setattr(exporting, "measured", lambda *given: exporting.Found({"onnx fp32": report}, {}, milliseconds))
    (found,) = exporting.goals()
    assert (found.ratio, found.ours, found.peer) == (3.0, "2.00 ms", "eager 6.00 ms")
    assert found.goal.startswith("text embedded by an export, onnx fp32, 1 a call")
    assert found.equal == "largest difference 2e-07, top 10 95.0% alike"
