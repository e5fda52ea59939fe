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
from small import save_stable_diffusion, saved_retriever, small_backbone

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.module import UniFashionModule

#: Files that are not looked through for doctests: several folders have one of this name.
collect_ignore_glob = ["*/conftest.py"]


@pytest.fixture
def backbone() -> QFormerBackbone:
    return small_backbone().eval()


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Stable Diffusion pipeline, tiny and random."""
    return save_stable_diffusion(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with a retrieval head, smaller than the shipped one, that has learned to compose."""
    return saved_retriever(tmp_path_factory.mktemp("retriever"))


@pytest.fixture(scope="session")
def exported(retriever: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its ONNX export, compared on drawn garments; skipped without the extra."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra `export` is not installed")
    from unifashion_pl.export.folder import export

    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export(UniFashionModule.from_pretrained(retriever), folder)
    return folder
