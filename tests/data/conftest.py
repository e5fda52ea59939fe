"""Shards of small raw datasets, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.rawdata import write_fashiongen, write_fashioniq
from small import small_backbone
from unifashion_pl.datamodules import fashiongen, fashioniq

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.data.shards import write_shards


@pytest.fixture(scope="session")
def fashiongen_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fashiongen(tmp_path_factory.mktemp("fashiongen"))


@pytest.fixture(scope="session")
def fashioniq_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fashioniq(tmp_path_factory.mktemp("fashioniq"))


@pytest.fixture(scope="session")
def pair_shards(fashiongen_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 training and 36 validation rows in shards of 5."""
    out = tmp_path_factory.mktemp("pairs")
    for plan in fashiongen.plans(fashiongen_root, shard_size=5):
        write_shards(plan, out, progress=False)
    return out


@pytest.fixture(scope="session")
def triplet_shards(fashioniq_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training triplets, 15 queries, 39 gallery images."""
    out = tmp_path_factory.mktemp("triplets")
    for plan in fashioniq.plans(fashioniq_root):
        write_shards(plan, out, progress=False)
    return out


@pytest.fixture
def frozen() -> QFormerBackbone:
    """A backbone whose tower is frozen and in eval mode, as in phase 2."""
    backbone = small_backbone()
    backbone.vision.requires_grad_(False)
    backbone.vision.eval()
    return backbone


@pytest.fixture(scope="session")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 triplets in shards of 5; the references of all dresses are one picture, so that 41 of 48 images are distinct."""
    root = write_fashioniq(tmp_path_factory.mktemp("repeated") / "raw")
    first = (root / "images/DTR00000.jpg").read_bytes()
    for i in range(8):
        (root / f"images/DTR{2 * i:05d}.jpg").write_bytes(first)
    plan = next(p for p in fashioniq.plans(root) if p.split == "train")
    object.__setattr__(plan, "shard_size", 5)
    return write_shards(plan, root.parent / "shards", progress=False).parent
