from __future__ import annotations

from pathlib import Path

import pytest
from wardrobe.sizes import SMALL

from unifashion_pl.wardrobe import write_wardrobe


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_wardrobe(tmp_path_factory.mktemp("w") / "one", spec=SMALL, workers=1, progress=False)
