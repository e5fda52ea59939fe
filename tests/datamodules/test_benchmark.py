"""The paper's datasets below one folder, here the wardrobe's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from unifashion_pl.datamodules import WardrobeDataModule

ALL: dict[str, Any] = {"pairs": True, "triplets": True, "tryon": True}


def module(cache: Path, **options: Any) -> WardrobeDataModule:
    settings = {"batch_size": 6, "eval_batch_size": 5, "tryon_batch_size": 2, "image_size": 16, "pixel_size": (24, 20)}
    return WardrobeDataModule(cache, "tiny", **{**settings, "prepare_workers": 1, **options})


@pytest.fixture(scope="module")
def cache(wardrobe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the tiny wardrobe and its shards; not to be changed."""
    cache = tmp_path_factory.mktemp("cache")
    shutil.copytree(wardrobe, module(cache).folder / "raw")
    module(cache, **ALL).prepare_data()
    return cache


def test_batches_too_small_to_mix_concern_pairs_only(cache: Path) -> None:
    with pytest.raises(ValueError, match="batch_size is 2, but a batch mixes 3 datasets .*: at least 3"):
        module(cache, batch_size=2)
    data = module(cache, batch_size=2, pairs=False, tryon=True)
    assert len(data.train_dataloader().iterables["tryon"]) == 2
