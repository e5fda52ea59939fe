"""One evaluation that many tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation.batches import evaluate, everything


@pytest.fixture(scope="session")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("run") / "test"
    return out, evaluate(everything(), out)
