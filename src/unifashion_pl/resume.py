"""Exact resume: after any sequence of interruptions a run has the batches, random numbers, weights and curves of an undisturbed one.

Lightning 2.6 saves its counters in the middle of things (at the end of a batch, of a validation, of an epoch) and does not always go on
from there: after a checkpoint at an epoch's last batch its counters never begin the next epoch, and a validation or a row of the
curves that was about to come is left out. Here the counters are settled before Lightning reads them, and what was about to come, comes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch.callbacks import BaseFinetuning, BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.loops.evaluation_loop import RestartStage
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from unifashion_pl.callbacks import StepSeeds, Stream, Streams, streams
from unifashion_pl.curves import take_over, writers
from unifashion_pl.epochs import Outlook, count_no_epochs_backwards, total_steps
from unifashion_pl.files import check_writable, write_checkpoint
from unifashion_pl.names import plain
from unifashion_pl.optim import GroupSchedule, laid_as
from unifashion_pl.parts.tensors import read_content
from unifashion_pl.preemption import Preemption

STATES, GRADIENTS, CURVES = "unifashion_streams", "unifashion_gradients", "unifashion_curves"
LOOP = "epoch_loop.batch_progress"


def run_callbacks(model: L.LightningModule) -> list[L.Callback]:
    """What every run of a module of this library carries along, once it is known that its results can be written.

    Raises:
        WriteError: a folder of checkpoints or curves cannot be written.
        ValueError: a callback would change what trains.
    """
    trainer = model.trainer
    if trainer.state.fn == TrainerFn.FITTING and not getattr(trainer, "fast_dev_run", False):
        savers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        given = [saver.dirpath for saver in savers] + [logger.save_dir for logger in trainer.loggers]
        for place in {str(place or trainer.default_root_dir) for place in given} if trainer.is_global_zero else ():
            if "://" not in place:
                check_writable(place, folder=True)
    if any(isinstance(callback, BaseFinetuning) for callback in getattr(trainer, "callbacks", ())) and hasattr(model, "policy"):
        raise ValueError(
            "a callback freezes and unfreezes parts while the model trains (BaseFinetuning); here `policy` and `also_train` say what trains, "
            "for a whole run. Train in stages: a run for each policy, started from the one before by init_from"
        )
    take_over(trainer)
    count_no_epochs_backwards(trainer)
    if type(trainer.strategy.checkpoint_io) in (TorchCheckpointIO, WholeCheckpointIO):
        trainer.strategy.checkpoint_io = WholeCheckpointIO(mapped=trainer.state.fn != TrainerFn.FITTING)
    return [StepSeeds(), Resume(), Outlook(), Streams(), Preemption()]


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all, whatever TMPDIR is, with the umask's permissions.

    Lightning's own writes to TMPDIR and moves the file, which is a copy where that is another file system.

    Args:
        mapped: read only what is used, as where nothing is trained further the optimiser's states are not.
    """

    def __init__(self, mapped: bool = False) -> None:
        self.mapped = mapped

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """As Lightning's; ``weights_only=False`` and addresses are left to it."""
        if self.mapped and weights_only is not False and Path(path).is_file():
            content: dict[str, Any] = read_content(path)
            return content
        given = {} if map_location is None else {"map_location": map_location}
        return super().load_checkpoint(path, weights_only=weights_only, **given)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint beside its place, and put it there.

        Raises:
            WriteError: the disk is full, or the folder cannot be written.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_checkpoint(path, checkpoint)


class Resume(L.Callback):
    """Puts a resumed run where the undisturbed one was when the checkpoint was written: streams, counters, gradients, curves.

    Lightning's tuners save a checkpoint, try things out without callbacks, and load it again. That is no resume: it leaves the streams
    where they were, whatever size their batches have now.
    """

    def __init__(self) -> None:
        self.places: dict[str, dict[str, Any]] = {}
        self.loaded: dict[str, Any] | None = None
        self.stage = ""
        self.begun = False
        self.tried: list[tuple[Stream, dict[str, Any]]] | None = None
        self.trial: dict[str, dict[str, Any]] | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the states of the streams by name, gradients of a step that has not come yet, and how far the curves are."""
        if not self.begun:
            self.tried = [(loader, loader.state_dict()) for loader in streams(trainer).values()]
            checkpoint.update(
                {name: value for name, value in (self.loaded or {}).items() if name in (STATES, GRADIENTS, CURVES)}
            )
            return
        progress = checkpoint["loops"]["fit_loop"][LOOP]["total"]
        between = progress["ready"] == progress["processed"]
        checkpoint[STATES] = self._states(trainer) if between else self.places
        current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        done = current.processed
        waiting = done % trainer.accumulate_grad_batches != 0 and done != trainer.num_training_batches
        if waiting and (gradients := _waiting_gradients(pl_module)):
            checkpoint[GRADIENTS] = gradients
        for logger in trainer.loggers:
            logger.save()
        checkpoint[CURVES] = {"rows": [writer.rows for writer in writers(trainer)], "next": _next_row(trainer)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Settle the counters, and take the rest for when there are loaders.

        Raises:
            ValueError: a run is resumed that would begin with a tuner.
        """
        if self.begun:
            self.trial = checkpoint.get(STATES)
            return
        if self.tried is not None:
            for loader, state in self.tried:
                loader.load_state_dict(state)
            return
        starts = (BatchSizeFinder.on_fit_start, LearningRateFinder.on_fit_start)
        callbacks: list[L.Callback] = getattr(trainer, "callbacks", []) if trainer.training else []
        for tuner in (type(callback).__name__ for callback in callbacks if type(callback).on_fit_start in starts):
            raise ValueError(
                f"cannot resume with a {tuner}: its trial makes Lightning forget optimiser and position of the checkpoint (lightning 2.6). "
                "Leave it out of the run that resumes"
            )
        self.loaded = {name: checkpoint.get(name) for name in (STATES, GRADIENTS, CURVES)} | {"step": checkpoint["global_step"]}
        if "loops" in checkpoint:
            self.stage = settle(checkpoint["loops"]["fit_loop"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on from the checkpoint, if there was one.

        Raises:
            ValueError: a run is resumed with other data.
        """
        loaded, self.loaded = self.loaded, None
        if loaded is not None:
            self._streams(trainer, loaded[STATES])
            waiting = {} if loaded[GRADIENTS] is None else loaded[GRADIENTS][trainer.global_rank]
            for name, parameter in pl_module.named_parameters():
                if plain(name) in waiting:
                    parameter.grad = laid_as(waiting[plain(name)].to(parameter.device, parameter.dtype), parameter)
            _curves(trainer, loaded[CURVES] or {}, loaded["step"])
            if self.stage:
                _go_on(trainer.fit_loop, self.stage)
            _follow(trainer)
        self.places = self._states(trainer)
        self.begun = True

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on as before a tuner's trial between two epochs, after which Lightning makes the loaders anew."""
        trial, self.trial = self.trial, None
        self._streams(trainer, trial)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note where the streams are, for a checkpoint that an error writes in the middle of the next batch."""
        self.places = self._states(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning's inner loop forgets that it was restarted after a batch; there was none if only the epoch's end was to be done."""
        trainer.fit_loop.epoch_loop.restarting = False

    @staticmethod
    def _states(trainer: L.Trainer) -> dict[str, dict[str, Any]]:
        return {name: loader.state_dict() for name, loader in streams(trainer).items()}

    @staticmethod
    def _streams(trainer: L.Trainer, states: dict[str, dict[str, Any]] | None) -> None:
        """Lightning hands the states of loaders over only where a module did not ask for the length of training before."""
        loaders = streams(trainer)
        if states is None:
            return
        if set(states) != set(loaders):
            before, now = (", ".join(sorted(found)) or "of other loaders than this library's" for found in (states, loaders))
            raise ValueError(
                f"cannot resume: the run trained on the streams {before}, now there are {now}. Use "
                "the old ones, or start from the checkpoint's weights (init_from) instead of resuming"
            )
        for name, loader in loaders.items():
            loader.load_state_dict(states[name])


def settle(loop: dict[str, Any]) -> str:
    """Change the saved counters of a fit loop to those of a place from which Lightning goes on rightly.

    Returns:
        Where that is: ``epoch`` = before an epoch; ``batch`` = a batch has ended, and what follows it (validation, the loggers' step) has
        not happened; ``validated`` = the validation has; ``whole`` = all of it has.
    """
    epoch, batch, validation = loop["epoch_progress"], loop[LOOP], loop["epoch_loop.val_loop.batch_progress"]
    count = batch["total"]
    interrupted, ended = count["ready"] > count["processed"], count["completed"] < count["processed"]
    _complete(batch)
    if epoch["current"]["processed"] == epoch["current"]["ready"] or not batch["current"]["processed"]:
        _complete(epoch)
        batch["current"].update(ready=0, started=0, processed=0, completed=0)
        batch["is_last_batch"] = False
        return "epoch"
    if interrupted:
        batch["is_last_batch"] = False  # that was said of the batch that is done again
        return "whole"
    done = validation["is_last_batch"] and validation["current"]["completed"] == validation["current"]["ready"]
    return "validated" if done and not ended else "batch"


def _complete(progress: dict[str, Any]) -> None:
    """Whatever was processed was begun and ended."""
    for kind in ("total", "current"):
        whole = progress[kind]["processed"]
        progress[kind].update(ready=whole, started=whole, completed=whole)


def _go_on(loop: Any, stage: str) -> None:
    """Let a fit loop, which has read settled counters, continue: Lightning's loop does what follows a batch only where a validation is due."""
    inner = loop.epoch_loop
    if stage == "epoch":
        loop._restarting = False
        inner.restarting = False
        return
    due = inner._should_check_val_fx(loop._data_fetcher)
    if not inner._should_accumulate():
        inner._batches_that_stepped += int(stage != "whole") - int(due)
    if due and stage == "batch":
        inner.val_loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
        inner.val_loop._restarting = False
    if not due:
        inner.val_loop._has_run = True


def _follow(trainer: L.Trainer) -> None:
    """Let the schedules go on to the end that the training has now."""
    steps = total_steps(trainer)
    for schedule in [config.scheduler for config in trainer.lr_scheduler_configs]:
        if isinstance(schedule, GroupSchedule):
            schedule.follow(max(1, int(steps)) if steps < math.inf else None)


def _next_row(trainer: L.Trainer) -> dict[str, Any] | None:
    """The row of the curves that Lightning writes after the batch whose end writes a checkpoint; None if that is not where we are."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    connector = trainer._logger_connector
    ended = progress.ready == progress.processed > progress.completed
    if (
        not (trainer.training and ended and trainer.loggers and connector.should_update_logs)
        or trainer.fit_loop._should_accumulate()
    ):
        return None
    metrics = convert_tensors_to_scalars(connector.metrics["log"])
    return {**metrics, "epoch": trainer.current_epoch, "step": trainer.fit_loop.epoch_loop._batches_that_stepped}


def _curves(trainer: L.Trainer, state: dict[str, Any], step: int) -> None:
    counts = state.get("rows", [])
    for i, writer in enumerate(writers(trainer)):
        writer.keep(counts[i] if i < len(counts) else None, step)
    if row := state.get("next"):
        metrics = {name: value for name, value in row.items() if name != "step"}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=row["step"])
            logger.save()


def _waiting_gradients(model: L.LightningModule) -> list[dict[str, Tensor]]:
    """Gradients by name that wait for their step, of every rank; [] = none wait. On other ranks than 0 only their own."""
    own = {plain(name): p.grad.detach().cpu() for name, p in model.named_parameters() if p.grad is not None}
    if not (dist.is_available() and dist.is_initialized()):
        return [own] if own else []
    ranks: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(own, ranks)
    return ranks or [own]
