"""Notebooks: small, without outputs, and executed offline in an empty folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
#: Bytes that an executed notebook may have: its pictures are small.
MOST = 1_000_000


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"quickstart", "own_photos", "evaluate", "head_and_loss"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_of_a_notebook_is_small_and_has_no_outputs(path: Path) -> None:
    assert path.stat().st_size < 30_000
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="notebooks need the extra notebooks")
    nbformat = pytest.importorskip("nbformat", reason="notebooks need the extra notebooks")
    pytest.importorskip("ipykernel", reason="notebooks need the extra notebooks")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("UNIFASHION_CACHE", str(tmp_path / "cache"))
    book = nbformat.read(path, 4)
    nbclient.NotebookClient(book, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert len(json.dumps(outputs)) < MOST
    shown = [kind for output in outputs for kind in output.get("data", ())]
    assert path.stem != "quickstart" or (shown.count("text/html") >= 4 and shown.count("image/png") >= 2)
    said = "".join(output.get("text", "") for output in outputs)
    assert "Traceback" not in said
    assert "unifashion: error" not in said
