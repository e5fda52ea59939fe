"""The smallest wardrobe in all raw layouts, drawn once."""

from __future__ import annotations

from pathlib import Path

import pytest

from unifashion_pl.wardrobe import write_wardrobe


@pytest.fixture(scope="session")
def wardrobe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``fashiongen/ fashion-iq/ viton-hd/`` and others; not to be changed."""
    return write_wardrobe(tmp_path_factory.mktemp("wardrobe") / "tiny", spec="tiny", workers=1, progress=False)
