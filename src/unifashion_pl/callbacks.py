"""What every training run of this library carries along: random numbers that a resume repeats, a check of the data before the first
step, and an account of damaged samples at the end. :func:`unifashion_pl.resume.run_callbacks` adds them."""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils._pytree import tree_leaves

from unifashion_pl.data.mixing import MixedPairLoader
from unifashion_pl.data.reader import DamagedSample
from unifashion_pl.data.samples import PairBatch, TrainBatch, TripletBatch, TryOnBatch
from unifashion_pl.data.stream import EvalLoader, TrainLoader
from unifashion_pl.freezing import left_out
from unifashion_pl.team import team_of_all

SEED_VARIABLE = "PL_GLOBAL_SEED"  # where Lightning's seed_everything leaves the seed
PEEKED = 4

Stream = TrainLoader[Any] | MixedPairLoader


class StepSeeds(L.Callback):
    """The random numbers of a training step (dropout, noise, timesteps, hard negatives) depend on (seed, rank, epoch, batch) only.

    Epoch and batch are counted from the batches that the run has had, not by Lightning's own counters: those lag behind after some
    resumes. So they need not be stored with a checkpoint, which only rank 0 writes, and a validation in between, the number of workers or a
    resume change nothing about the steps that follow. The seed is that of ``seed_everything``; without it, one is drawn and kept in
    the checkpoint.

    Raises:
        ValueError: a run is resumed under another ``seed_everything`` than it began with.
    """

    def __init__(self) -> None:
        self.seed: int | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the seed, or that of the run that is resumed."""
        given = os.environ.get(SEED_VARIABLE)
        if self.seed is None:
            self.seed = int(trainer.strategy.broadcast(torch.initial_seed() if given is None else int(given)))
        elif given is not None and int(given) != self.seed:
            raise ValueError(
                f"cannot resume: the run was seeded with {self.seed}, now seed_everything is {given}. Use the old value, or start from "
                "the checkpoint's weights (init_from) instead of resuming"
            )
        pl_module.training_seed = self.seed  # type: ignore[assignment]

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed Python, numpy and torch on all devices."""
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        done, length = progress.processed, trainer.num_training_batches
        epoch, batch_number = divmod(done, int(length)) if math.isfinite(length) else (0, done)
        seed_all(f"{self.seed}/{trainer.global_rank}/{epoch}/{batch_number}")

    def state_dict(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the seed of the run that is resumed."""
        self.seed = state_dict["seed"]


def seed_all(name: str) -> None:
    """Seed the global generators of Python, numpy and torch with a hash of a name; neighbouring names give unrelated streams."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class Streams(L.Callback):
    """Looks at the training streams before the first step, counts damaged samples while training and names them at the end."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what would fail or mislead later, on every rank alike.

        Raises:
            ValueError: a stream does not fit the model.
            FileNotFoundError: shards of the validation are missing.
        """
        for name, loader in streams(trainer).items():
            with suppress(DamagedSample):  # the stream itself counts and reports damage
                for note in check_batch(pl_module, name, loader.peek(PEEKED)):
                    say(trainer, f"note: {note}")
            if idle := loader.idle_workers():
                say(trainer, f"note: {idle}")
        data = getattr(trainer, "datamodule", None)
        if data is not None and trainer.enable_validation and trainer.val_dataloaders is None:
            data.val_dataloader()  # a validation that cannot begin is known now, not after some epochs

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Every epoch of ``overfit_batches`` has the same batches: the first ones."""
        if getattr(trainer, "overfit_batches", 0):  # set where type checkers do not see it
            for loader in streams(trainer).values():
                loader.set_epoch(0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log how many different damaged samples all ranks have replaced so far; nothing while there are none."""
        if trainer.world_size > 1 and not row_follows(trainer):
            return
        if count := sum(team_of_all().objects(len(damaged(trainer)))):
            pl_module.log("train/damaged_samples", float(count), batch_size=1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Name the damaged samples."""
        found = damaged(trainer)
        if found:
            lines = [f"rank {trainer.global_rank} replaced {len(found)} damaged samples by others of their batches:"]
            print("\n".join([*lines, *(f"  {message}" for message in found.values())]))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """End the worker processes of all loaders."""
        end_workers(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """As at the end."""
        end_workers(trainer)


class LearntAverage(WeightAveraging):
    """Lightning's weight averaging, exponential, of what learns: frozen parameters are the model's own, not copies.

    Lightning copies the whole model before it moves to its device; there the average would stay, and every step bring all weights to it.
    Buffers are copied: averaging counters would round them down. Checkpoints hold the average as their weights.

    Args:
        decay: the average spans about 1 / (1 - decay) steps.
        device: of the average; None = the model's.
    """

    def __init__(self, decay: float = 0.9999, device: str | None = None) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, expected 0 to 1, 1 excluded")
        average = get_ema_multi_avg_fn(decay)

        def learnt(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
            pairs = [(a, b) for a, b in zip(averaged, current) if a.data_ptr() != b.data_ptr()]
            if pairs:
                average(*(list(side) for side in zip(*pairs)), count)

        super().__init__(device=device, use_buffers=False, multi_avg_fn=learnt)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy what learns."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None and self._device is None:
            for name, parameter in pl_module.named_parameters(remove_duplicate=False):  # tied ones at all their places
                if not parameter.requires_grad:
                    owner, _, own = name.rpartition(".")
                    setattr(self._average_model.module.get_submodule(owner), own, parameter)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Follow the model to its device."""
        if self._average_model is not None and self._device is None:
            self._average_model.to(pl_module.device)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """The trained weights without the parts that building the model restores, as the module leaves them out of the average."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        for name in left_out(pl_module) & checkpoint.get("current_model_state", {}).keys():
            del checkpoint["current_model_state"][name]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lend those parts to the trained weights."""
        if trained := checkpoint.get("current_model_state"):
            own = pl_module.state_dict()
            trained.update({name: own[name] for name in left_out(pl_module) - trained.keys()})
        super().on_load_checkpoint(trainer, pl_module, checkpoint)


def streams(trainer: L.Trainer) -> dict[str, Stream]:
    """The training streams of this library by name; others are not ours to look at."""
    loaders = trainer.train_dataloader
    named: Mapping[str, Any] = loaders if isinstance(loaders, Mapping) else {"": loaders}
    return {name: loader for name, loader in named.items() if isinstance(loader, TrainLoader | MixedPairLoader)}


def row_follows(trainer: L.Trainer) -> bool:
    """Whether loggers write a row after the batch that the training is in; all ranks say the same."""
    every: int = getattr(trainer, "log_every_n_steps", 0)
    return every > 0 and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0


def end_workers(trainer: L.Trainer) -> None:
    """Close the loaders of this library that the trainer holds."""
    held = (trainer.train_dataloader, trainer.val_dataloaders, trainer.test_dataloaders, trainer.predict_dataloaders)
    for loader in tree_leaves(held):
        if isinstance(loader, TrainLoader | MixedPairLoader | EvalLoader):
            loader.close()


def damaged(trainer: L.Trainer) -> dict[str, str]:
    """``stream/key`` -> what is wrong, of the damaged samples that this rank met."""
    return {f"{name}/{key}": message for name, loader in streams(trainer).items() for key, message in loader.bad.items()}


def check_batch(model: L.LightningModule, stream: str, batch: TrainBatch) -> list[str]:
    """Whether a stream's batches have what the model's heads read.

    Args:
        model: :class:`unifashion_pl.UniFashionModule`; of other modules only the backbone is looked at.

    Returns:
        What is allowed but perhaps not meant.

    Raises:
        ValueError: pictures of another size than vision tower or diffusion head take, none at all, or features of another width; with
            the setting that mends it.
    """
    backbone = getattr(model, "backbone", None)
    if backbone is not None:
        images, size, width = _seen(batch), backbone.vision.image_size, backbone.vision.width
        if images.ndim == 3 and images.shape[-1] != width:
            raise ValueError(
                f"stream {stream}: cached vision features are {images.shape[-1]} wide, the vision tower gives {width}"
            )
        if images.ndim == 4 and tuple(images.shape[-2:]) != (size, size):
            raise ValueError(
                f"stream {stream}: images are {images.shape[-2]} × {images.shape[-1]}, the vision tower takes {size} × {size}: set "
                f"image_size of the data to {size}"
            )
    active = getattr(model, "active_families", [])
    head = getattr(model, "diffusion_head", None)
    if "q2i" in active and head is not None and isinstance(batch, PairBatch | TripletBatch | TryOnBatch):
        size = head.edit_size if isinstance(batch, TryOnBatch) else head.size
        found = None if batch.pixels is None else head.vae.size_of(batch.pixels)
        if found != tuple(size):
            raise ValueError(
                f"stream {stream}: the diffusion head paints {tuple(size)} (height, width) and the batches' pixels are {found}: set "
                f"pixel_size of the data to {list(size)}"
            )
    if not isinstance(batch, PairBatch | TripletBatch) or any(c.strip() for c in batch.captions):
        return []
    learners = ["the caption head"] if "itg" in active else []
    if "cross" in active and isinstance(batch, TripletBatch):
        learners.append("the caption's part of L_cir (Eq. 10)")
        retrieval: Any = getattr(model, "retrieval_head", None)
        if retrieval.itm_text == "caption" and retrieval.itm_head is not None:
            learners.append("matching (itm_text: caption)")
    note = f"none of the first {len(batch)} samples has a caption, from which {', '.join(learners)} would learn"
    return [f"stream {stream}: {note}"] if learners else []


def _seen(batch: TrainBatch) -> Tensor:
    if isinstance(batch, TryOnBatch):
        return batch.garments
    return batch.references if isinstance(batch, TripletBatch) else batch.images


def say(trainer: L.Trainer, sentence: str) -> None:
    """Print on rank 0."""
    if trainer.is_global_zero:
        print(sentence)
