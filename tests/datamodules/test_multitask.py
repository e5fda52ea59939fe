from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from data.rawdata import write_fashiongen, write_fashioniq, write_vitonhd
from readers import on_rank
from unifashion_pl.datamodules import (
    FashionDataModule,
    FashionGenDataModule,
    FashionIQDataModule,
    MultiTaskDataModule,
    VitonHDDataModule,
)

from unifashion_pl.data.samples import PairBatch, TripletBatch, TryOnBatch

TYPES = {"pairs": PairBatch, "triplets": TripletBatch, "tryon": TryOnBatch}


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


def test_every_step_has_a_batch_of_every_stream(folder: Path) -> None:
    for step, _, _ in MultiTaskDataModule(**parts(folder)).train_dataloader():
        assert {name: type(batch) for name, batch in step.items()} == TYPES
        assert {name: len(batch) for name, batch in step.items()} == {"pairs": 4, "triplets": 4, "tryon": 2}
        for batch in step.values():
            assert (batch.pixels.shape[1:], batch.pixels.dtype) == ((3, 64, 48), torch.uint8)


def test_an_epoch_is_as_long_as_the_longest_stream_and_shorter_ones_go_on(folder: Path) -> None:
    data = MultiTaskDataModule(**parts(folder))
    assert {name: len(part.train_loader()) for name, part in data.parts.items()} == {"pairs": 9, "triplets": 5, "tryon": 2}
    combined = data.train_dataloader()
    steps = [step for step, _, _ in combined]
    assert len(steps) == len(combined) == 9
    assert len({key for step in steps for key in step["pairs"].keys}) == 36
    alone = parts(folder)
    for name, epochs in (("triplets", 2), ("tryon", 5)):
        loader = alone[name].train_loader()
        expected = [batch.keys for _ in range(epochs) for batch in loader][:9]
        assert [step[name].keys for step in steps] == expected
    texts = Counter((k, t) for step in steps for k, t in zip(step["triplets"].keys, step["triplets"].texts))
    assert len(texts) > len({key for key, _ in texts})
    assert {name: loader.epoch for name, loader in combined.iterables.items()} == {"pairs": 1, "triplets": 1, "tryon": 4}


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_may_be_one_of_any_stream_and_the_others_go_on(folder: Path, world: int, workers: int) -> None:
    """The order of every stream is that of its own loader alone, whatever an epoch is of; every rank has as many steps."""
    fork = {name: {"num_workers": workers, "start_method": "fork" if workers else None} for name in TYPES}
    lengths = {1: {"pairs": 9, "triplets": 5, "tryon": 2}, 2: {"pairs": 4, "triplets": 2, "tryon": 1}}[world]
    for name, length in lengths.items():
        for rank in range(world):
            data = on_rank(MultiTaskDataModule(**parts(folder, **fork), epoch_of=name), rank, world)
            combined = data.train_dataloader()
            epochs = [[step for step, _, _ in combined] for _ in range(3)]
            assert [len(steps) for steps in epochs] == [length] * 3
            assert (len(combined), combined.pacer) == (length, name)
            for other in data.parts:
                alone = on_rank(parts(folder)[other], rank, world).train_loader()
                expected = [batch.keys for _ in range(3 * length) for batch in alone][: 3 * length]
                assert [step[other].keys for steps in epochs for step in steps] == expected
                state = combined.streams[other].state_dict()
                assert (state["epoch"], state["batches"]) == divmod(3 * length, lengths[other])


def test_an_epoch_may_be_one_of_a_dataset(folder: Path) -> None:
    for name, stream in (("vitonhd", "tryon"), ("fashioniq", "triplets"), ("fashiongen", "pairs"), (None, "pairs")):
        assert MultiTaskDataModule(**parts(folder), epoch_of=name).train_dataloader().pacer == stream
    message = (
        "unknown epoch_of 'triplet' .did you mean triplets.*; known are pairs, triplets, tryon, fashiongen, fashioniq, vitonhd"
    )
    with pytest.raises(ValueError, match=message):
        MultiTaskDataModule(**parts(folder), epoch_of="triplet").train_dataloader()


@pytest.mark.parametrize("names", [("pairs",), ("triplets", "tryon"), ("tryon",)])
def test_streams_may_be_left_out(folder: Path, names: tuple[str, ...]) -> None:
    made = parts(folder)
    data = MultiTaskDataModule(**{name: made[name] for name in names})
    steps = [step for step, _, _ in data.train_dataloader()]
    assert len(steps) == max(len(made[name].train_loader()) for name in names)
    assert all(tuple(step) == names for step in steps)
    expected = sum({"pairs": 1, "triplets": 2, "tryon": 1}[name] for name in names)
    assert len(data.val_dataloader()) == expected
    assert len(data.test_dataloader()) == expected + ("tryon" in names)


@pytest.mark.parametrize("world", [1, 2])
def test_ranks_reach_the_parts(folder: Path, world: int) -> None:
    ranks = [on_rank(MultiTaskDataModule(**parts(folder)), rank, world) for rank in range(world)]
    steps = [[step for step, _, _ in data.train_dataloader()] for data in ranks]
    assert {len(part) for part in steps} == {36 // (4 * world)}
    first = [key for part in steps for step in part for key in step["pairs"].keys]
    assert len(first) == len(set(first)) == 36 // (4 * world) * 4 * world
    for stage in ("val_dataloader", "test_dataloader"):
        seen = Counter(
            (loader.source.dataset, loader.source.kind, category, key)
            for data in ranks
            for loader in getattr(data, stage)()
            for batch in loader
            for category, key in zip(getattr(batch, "categories", [""] * len(batch)), batch.keys)
        )
        assert set(seen.values()) == {1}
        expected = {("fashiongen/validation", "pairs"): 36, ("fashioniq/val", "gallery"): 39, ("fashioniq/val", "queries"): 15}
        expected |= {("vitonhd/test-paired", "tryon"): 4}
        if stage == "test_dataloader":
            expected |= {("vitonhd/test-unpaired", "tryon"): 4}
        assert Counter(name[:2] for name in seen) == expected


def test_a_datamodule_of_another_stream_is_refused(folder: Path) -> None:
    made = parts(folder)
    for name, other in (("pairs", "triplets"), ("triplets", "tryon"), ("tryon", "pairs")):
        message = f"{type(made[other]).__name__} was given as {name}, but it yields {other}"
        with pytest.raises(ValueError, match=message):
            MultiTaskDataModule(**{name: made[other]})
    with pytest.raises(ValueError, match="LightningDataModule was given as pairs, but it yields no stream of this library"):
        MultiTaskDataModule(pairs=L.LightningDataModule())
    with pytest.raises(ValueError, match="needs at least one of pairs, triplets and tryon"):
        MultiTaskDataModule()


def test_a_part_without_shards_or_with_those_of_validation_is_named(folder: Path, tmp_path: Path) -> None:
    data = MultiTaskDataModule(**parts(folder, tryon={"shards": tmp_path / "none"}))
    data.parts["tryon"].root = None
    with pytest.raises(FileNotFoundError, match="VitonHDDataModule: no shards for tryon-train"):
        data.prepare_data()
    shutil.copytree(folder / "triplets/shards/queries-val", tmp_path / "triplets-train")
    with pytest.raises(ValueError, match=r"fashioniq/val \(queries\) is an evaluation split: training on it is refused"):
        MultiTaskDataModule(**parts(folder, triplets={"shards": tmp_path})).train_dataloader()


class Counting(L.LightningModule):
    """Learns nothing and notes what the trainer hands it."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.steps: list[tuple[int, list[str]]] = []
        self.evaluated: list[str] = []

    def training_step(self, batch: Any, index: int) -> None:
        self.steps.append((self.current_epoch, batch["tryon"].keys))

    def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
        self.evaluated += [f"{dataloader_idx}/{key}" for key in batch.keys]

    def configure_optimizers(self) -> None:
        return None


def test_a_trainer_sees_epochs_of_fixed_length_and_each_evaluation_sample_once(folder: Path, tmp_path: Path) -> None:
    module = Counting()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=MultiTaskDataModule(**parts(folder)))
    assert [epoch for epoch, _ in module.steps] == [0] * 9 + [1] * 9
    loader = parts(folder)["tryon"].train_loader()
    assert [keys for _, keys in module.steps] == [batch.keys for _ in range(9) for batch in loader]
    assert Counter(name[0] for name in module.evaluated) == {"0": 2 * 36, "1": 2 * 39, "2": 2 * 15, "3": 2 * 4}
