"""A head alone: what it trains on, the loss that it steps on, what stays frozen."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from small import pair_batch, small_backbone, triplet_batch, tryon_batch
from torch import Tensor, nn

from unifashion_pl.backbone import Encoding, QFormerBackbone
from unifashion_pl.data.samples import PairBatch, TrainBatch
from unifashion_pl.tasks.base import TaskModule


class Mean(TaskModule):
    """Two losses of pairs, one of triplets, from the mean of the queries."""

    def __init__(self, backbone: QFormerBackbone | None = None, **settings: Any) -> None:
        super().__init__(backbone, **settings)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.frozen = nn.BatchNorm1d(3).requires_grad_(False)
        self.given: list[TrainBatch] = []

    def losses(self, backbone: QFormerBackbone, batch: TrainBatch, encoding: Encoding) -> dict[str, Tensor]:
        self.given.append(batch)
        mean = self.scale * encoding.queries.mean()
        return {"first": mean, "second": mean.square()} if isinstance(batch, PairBatch) else {"third": -mean}


def alone(**settings: Any) -> Mean:
    return Mean(small_backbone(), **settings)


def run(module: TaskModule, batch: object) -> L.Trainer:
    trainer = L.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
    return trainer


def test_the_step_is_taken_on_the_sum_of_all_losses_of_all_streams() -> None:
    module = alone()
    batch = {"pairs": pair_batch(), "triplets": triplet_batch()}
    trainer = run(module, batch)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert set(found) == {"train/first", "train/second", "train/third", "train/loss"}
    assert found["train/second"] == pytest.approx(found["train/first"] ** 2, rel=1e-5)
    assert found["train/loss"] == pytest.approx(found["train/first"] + found["train/second"] + found["train/third"], rel=1e-5)
    assert [type(given).__name__ for given in module.given] == ["PairBatch", "TripletBatch"]


def test_a_batch_that_is_no_dict_is_one_stream() -> None:
    module = alone()
    run(module, pair_batch())
    assert [len(given) for given in module.given] == [4]


def test_what_prepare_makes_of_a_batch_is_what_is_learned_from() -> None:
    class Prepared(Mean):
        def prepare(self, batch: TrainBatch) -> TrainBatch:
            return triplet_batch() if isinstance(batch, PairBatch) else batch

    module = Prepared(small_backbone())
    assert set(run(module, {"pairs": pair_batch()}).callback_metrics) == {"train/third", "train/loss"}
    # persons are no batch to encode before a head has made edits of them
    with pytest.raises(
        ValueError, match=r"no loss in a batch with the streams \['tryon'\]: Prepared found nothing to learn in it"
    ):
        module.training_step({"tryon": tryon_batch()}, 0)


def test_without_a_backbone_it_says_what_to_pass() -> None:
    with pytest.raises(RuntimeError, match="Mean was built without a backbone: pass backbone=… to train it alone"):
        Mean().training_step({"pairs": pair_batch()}, 0)


def test_only_what_trains_is_optimised_and_what_is_frozen_stays_in_eval_mode() -> None:
    module = alone(learning_rate=0.25)
    optimizer = module.configure_optimizers()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in module.parameters() if p.requires_grad}
    assert optimizer.defaults["lr"] == 0.25
    for part in module.modules():
        part.training = False  # as after loading
    run(module, pair_batch())
    assert module.training
    assert not module.frozen.training
    assert not module.eval().frozen.training
    assert not module.train().frozen.training


class Uneven(Mean):
    """Of each rank another loss, and of the second rank one more."""

    def losses(self, backbone: QFormerBackbone, batch: TrainBatch, encoding: Encoding) -> dict[str, Tensor]:
        rank = self.global_rank
        named = {"first": self.scale * (rank + 1) + 0 * encoding.queries.sum()}
        return named if rank == 0 else {**named, "further": self.scale * 5}


def test_curves_of_several_ranks_are_means_over_those_that_have_a_loss(tmp_path: Path) -> None:
    trainer = L.Trainer(
        max_steps=1, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        devices=2, strategy="ddp_spawn_find_unused_parameters_true", logger=CSVLogger(tmp_path, "", ""), log_every_n_steps=1,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([pair_batch()] * 2, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(Uneven(small_backbone()), loader)
    (row,) = csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())
    found = {name: float(value) for name, value in row.items() if name.startswith("train/")}
    assert found == {"train/first": 3.0, "train/further": 10.0, "train/loss": (2.0 + 14.0) / 2}
