"""The benchmark of losses at a size for tests: what is kept exactly loses nothing, and more words find more of the same."""

from __future__ import annotations

import json

import index_losses
import pytest


def test_what_is_kept_exactly_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    index_losses.main(["--products", "40", "--texts", "10"])
    first, *lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert first["images"] == 40
    assert len(lines) == 2 * (3 + 3 + 2 + 5)
    for line in (line for line in lines if "coarse" not in line):
        assert 0 <= line["first"] <= line["among ten"] <= 1
        if line.get("storage") == "fp32" and "pool" not in line:  # of 40 images all are candidates
            assert line["recall"] == 1
