"""Shards of small raw datasets, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.rawdata import write_fashiongen, write_fashioniq
from unifashion_pl.datamodules import fashiongen, fashioniq

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
