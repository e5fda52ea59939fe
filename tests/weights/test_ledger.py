"""Every tensor of a published checkpoint is accounted for once; the report of it is typed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from unifashion_pl.weights.ledger import Ledger, Report


def test_a_ledger_spends_every_name_once() -> None:
    ledger = Ledger({"a": torch.rand(2), "b": torch.rand(2)})
    ledger.move("a", "x")
    with pytest.raises(KeyError, match="already assigned"):
        ledger.drop(["a"], "twice")
    with pytest.raises(ValueError, match="two tensors of the source would become x"):
        ledger.move("b", "x")


def test_reports_of_imports_are_typed(tmp_path: Path) -> None:
    good = {"format": "unifashion-import/1", "kind": "tower", "source": "x", "entries": [{"action": "taken", "sources": ["a"]}]}
    (tmp_path / "report.json").write_text(json.dumps(good))
    assert Report.read(tmp_path).entries[0].sources == ("a",)
    for field, value in {"kind": 3, "entries": [{"action": "eaten", "sources": []}], "absent": [], "folders": {"a": 1}}.items():
        (tmp_path / "report.json").write_text(json.dumps({**copy.deepcopy(good), field: value}))
        with pytest.raises(ValueError, match=rf"report\.json: .*\$\.{field}"):
            Report.read(tmp_path)
