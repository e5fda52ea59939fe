"""Pairs of several datasets in one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data.rawdata import write_fashiongen, write_fashioniq, write_vitonhd
from readers import keys, on_rank
from unifashion_pl.datamodules import (
    FashionDataModule,
    FashionGenDataModule,
    FashionIQDataModule,
    MixedPairsDataModule,
    MultiTaskDataModule,
    VitonHDDataModule,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pairs, 24 triplets (one touches validation) and 5 try-on samples with shards; not to be changed."""
    folder = tmp_path_factory.mktemp("three")
    write_fashiongen(folder / "pairs")
    write_fashioniq(folder / "triplets")
    write_vitonhd(folder / "tryon")
    MultiTaskDataModule(**parts(folder)).prepare_data()
    return folder


def parts(folder: Path, **changes: dict[str, Any]) -> dict[str, FashionDataModule]:
    """The three DataModules, with batches of 4, 4 and 2."""
    kinds = {"pairs": (FashionGenDataModule, 4), "triplets": (FashionIQDataModule, 4), "tryon": (VitonHDDataModule, 2)}
    made: dict[str, FashionDataModule] = {}
    for name, (kind, batch_size) in kinds.items():
        options = {"batch_size": batch_size, "eval_batch_size": 4, "image_size": 16, "pixel_size": (64, 48)}
        made[name] = kind(folder / name, **{**options, **changes.get(name, {})})
    return made


def mixed(folder: Path, *batch_sizes: int, **options: Any) -> MixedPairsDataModule:
    """FashionGen several times, each with its own batch size."""
    return MixedPairsDataModule([parts(folder, pairs={"batch_size": size, **options})["pairs"] for size in batch_sizes])


def test_a_mixed_batch_holds_every_part_interleaved(folder: Path) -> None:
    data = mixed(folder, 4, 2)
    (loader,) = data.train_dataloader().iterables.values()
    batches = list(loader)
    assert len(batches) == len(loader) == 18
    assert loader.batch_size == 6
    assert {(len(batch), len(batch.images), batch.dataset) for batch in batches} == {
        (6, 6, "fashiongen/train+fashiongen/train")
    }
    long, short = [[[b.keys[i] for i in rows] for b in batches] for rows in ((0, 2, 3, 5), (1, 4))]
    assert {key for keys_ in long for key in keys_} == {key for keys_ in short for key in keys_}
    four, two = (part.train_loader() for part in data.parts)
    assert long == [b.keys for _ in range(2) for b in four]
    assert short == [b.keys for b in two]
    assert [len(keys(loader)) for loader in data.val_dataloader()] == [36, 36]
    assert [len(loader) for loader in on_rank(mixed(folder, 4, 2), 1, 2).train_loader().loaders] == [4, 9]


def test_mixed_pairs_are_the_pairs_of_a_multitask_step(folder: Path) -> None:
    made = parts(folder)
    data = MultiTaskDataModule(mixed(folder, 4, 2), made["triplets"])
    step = next(iter(data.train_dataloader()))[0]
    assert (len(step["pairs"]), len(step["triplets"])) == (6, 4)
    assert step["pairs"].pixels is not None


def test_what_is_no_pair_is_not_mixed(folder: Path) -> None:
    with pytest.raises(ValueError, match="FashionIQDataModule does not yield pairs"):
        MixedPairsDataModule([parts(folder)["triplets"]])
    with pytest.raises(ValueError, match="needs at least one"):
        MixedPairsDataModule([])
