"""Settings and fixtures of all tests; the small real parts they share are in ``small.py``."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# threads for all cores in each of the test processes would stand in each other's way
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))

import pytest
from small import save_stable_diffusion, small_backbone

from unifashion_pl.backbone import QFormerBackbone

#: Files that are not looked through for doctests: several folders have one of this name.
collect_ignore_glob = ["*/conftest.py"]


@pytest.fixture
def backbone() -> QFormerBackbone:
    return small_backbone().eval()


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Stable Diffusion pipeline, tiny and random."""
    return save_stable_diffusion(tmp_path_factory.mktemp("pipeline"))
