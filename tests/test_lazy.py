"""Names that are imported on first use."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

import unifashion_pl.backbone
from unifashion_pl.lazy import on_first_use


def test_a_name_is_found_in_its_module_and_others_are_refused_as_python_does() -> None:
    found = on_first_use("unifashion_pl", {"version": ["__version__"]})
    assert found("__version__") == unifashion_pl.__version__
    with pytest.raises(AttributeError, match="module 'unifashion_pl' has no attribute 'nothing'"):
        found("nothing")


def test_every_public_name_is_there_and_how_texts_are_read_needs_no_torch() -> None:
    for package in ("unifashion_pl", *(f"unifashion_pl.{name}" for name in ("backbone", "cli", "gallery", "inference"))):
        module = __import__(package, fromlist=["__all__"])
        assert all(getattr(module, name) is not None for name in module.__all__)
    code = "import sys, unifashion_pl.backbone.words; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_nothing_is_collected_while_a_module_is_imported_and_all_is_as_before_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shed").mkdir()
    (tmp_path / "shed" / "__init__.py").touch()
    (tmp_path / "shed" / "spade.py").write_text("import gc\ncollected = gc.isenabled()\n")
    (tmp_path / "shed" / "broken.py").write_text("1 / 0\n")
    found = on_first_use("shed", {"spade": ["collected"], "broken": ["x"]})
    assert gc.isenabled()
    assert found("collected") is False
    with pytest.raises(ZeroDivisionError):
        found("x")
    assert gc.isenabled()
    gc.disable()
    try:
        found("collected")
        assert not gc.isenabled()
    finally:
        gc.enable()
