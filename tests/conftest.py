"""Settings and fixtures of all tests; the small real parts they share are in ``small.py``."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from small import small_backbone

from unifashion_pl.backbone import QFormerBackbone


@pytest.fixture
def backbone() -> QFormerBackbone:
    return small_backbone().eval()
