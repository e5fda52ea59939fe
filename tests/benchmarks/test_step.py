"""The benchmark of a step at a size for tests: both forms agree in each case, and a form that computes something else is noticed."""

from __future__ import annotations

import pytest
import step
import torch
from torch import Tensor

from unifashion_pl.backbone import QFormerBackbone


def test_all_cases_agree_and_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    step.main(["--scale", "tiny", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(step.CASES) + 1
    assert all("reference form" in line and " x " in line and "gradients" in line for line in lines[:-1])
    assert "AdamW's step over" in lines[-1]
    assert " after three steps" in lines[-1]


def test_another_result_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = step.Bench(step.SCALES["tiny"])
    original = QFormerBackbone.text_pass

    def wrong(self: QFormerBackbone, tokens: object) -> Tensor:
        out = original(self, tokens)  # type: ignore[arg-type]
        return out + 0.01 * torch.arange(out.shape[1])

    monkeypatch.setattr(QFormerBackbone, "text_pass", wrong)
    with pytest.raises(AssertionError, match="equal: losses differ"):
        step.goal(bench, "equal", 1)
