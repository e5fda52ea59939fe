"""How long a training is: steps, epochs, passes over each dataset, and the time that is left."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from unifashion_pl.callbacks import Stream, say, streams
from unifashion_pl.data.mixing import parts_of

#: Seconds of steps that are timed before the end is foretold.
TIMED = 20.0


class Outlook(L.Callback):
    """Prints :func:`outlook` before the first step, once the time that is left, and keeps what an epoch is with the checkpoint.

    Raises:
        ValueError: a run is resumed with another ``epoch_of``.
    """

    def __init__(self) -> None:
        self.epoch_of: str | None = None
        self.last = self.spent = 0.0
        self.timed = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how long the training is."""
        now = pacer_of(trainer)
        if self.epoch_of not in (None, now):
            raise ValueError(
                f"cannot resume: an epoch was one of {self.epoch_of}, now it is one of {now}. Use the old epoch_of, or start from the "
                "checkpoint's weights (init_from) instead of resuming"
            )
        self.epoch_of = now
        if streams(trainer) and math.isfinite(
            trainer.num_training_batches
        ):  # beside loaders of others there may be no end of an epoch
            say(trainer, outlook(trainer))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Time the batches after the first, in which much happens only once, and foretell the end."""
        now = time.monotonic()
        if self.timed >= 0:
            self.spent += now - self.last
        self.timed += 1
        self.last = now
        left = total_steps(trainer) - trainer.global_step
        if self.spent < TIMED or self.timed < 2 or not 0 < left < math.inf:
            return
        step = self.spent / self.timed * trainer.accumulate_grad_batches
        say(trainer, f"{step:.2f} s a step: about {duration(step * left)} left, validation not counted")
        self.spent = -math.inf

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A validation is no part of a step."""
        self.last = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """What an epoch is of."""
        return {"epoch_of": self.epoch_of}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what an epoch of the run was."""
        self.epoch_of = state_dict["epoch_of"]


def count_no_epochs_backwards(trainer: L.Trainer) -> None:
    """Rich's bar counts epochs up to -2 where steps alone end a training (lightning 2.6): there it names the epoch alone."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and trainer.max_epochs == -1:
        usual = bar._get_train_description
        vars(bar)["_get_train_description"] = lambda epoch: usual(epoch).replace(f"{epoch}/-2", f"{epoch}")


def pacer_of(trainer: L.Trainer) -> str | None:
    """What an epoch is of: ``triplets``, or a dataset of a mix, ``pairs/fashiongen``; None with loaders of others."""
    found = streams(trainer)
    name = getattr(trainer.fit_loop._combined_loader, "pacer", next(iter(found), None))
    if name not in found:
        return None
    return name if len(parts_of(found[name])) == 1 else f"{name}/{_pacer(found[name]).dataset_name}"


def _pacer(stream: Stream) -> Any:
    return getattr(stream, "pacer", stream)


def total_steps(trainer: L.Trainer) -> float:
    """Optimiser steps of the whole training, infinite if it has no end.

    Lightning's estimate takes the steps that were taken for ones of today's ``accumulate_grad_batches``, which a run that is resumed may
    have changed.
    """
    steps = trainer.estimated_stepping_batches
    batches, together = trainer.num_training_batches, trainer.accumulate_grad_batches
    if trainer.max_epochs == -1 or not 0 < batches < math.inf:
        return steps if steps >= 0 else math.inf
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    epochs, into = divmod(int(progress.processed), int(batches))
    left = math.ceil(batches / together) * (max(trainer.max_epochs or 0, 1) - epochs) - into // together
    whole = trainer.global_step + max(0, left)
    return whole if trainer.max_steps == -1 else min(whole, trainer.max_steps)


def outlook(trainer: L.Trainer) -> str:
    """A table: steps and epochs of a training that begins or is resumed, what an epoch is, and passes over each dataset.

    A pass has ``samples // (ranks × batch_size)`` steps; the samples left over differ between passes.
    """
    found, name = streams(trainer), pacer_of(trainer)
    batches, together = int(trainer.num_training_batches), trainer.accumulate_grad_batches
    of_pass = len(_pacer(found[name.partition("/")[0]])) if name else batches
    part = "one pass over" if batches == of_pass else f"{batches / of_pass:.3g} passes over"
    steps, per_epoch = total_steps(trainer), math.ceil(batches / together)
    ends = steps < math.inf
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    done = int(progress.processed)
    epochs, into = divmod(done, batches)
    left = into // together + int(steps) - trainer.global_step if ends else 0  # from the beginning of this epoch
    whole, rest = divmod(left, per_epoch)
    length = f"{steps:,.0f} steps, {_number(epochs + left / per_epoch)} epochs of" if ends else "no end, epochs of"
    lines = [f"training: {length} {per_epoch:,} steps; an epoch is {part} {name}"]
    rows = [("stream", "dataset", "samples", "a step", "passes an epoch", "in all")]
    for stream, loader in found.items():
        for dataset in parts_of(loader):
            size = dataset.rank.world * dataset.batch_size * together
            passes = _number(((epochs + whole) * batches + min(rest * together, batches)) / len(dataset)) if ends else "-"
            rows.append(
                (stream, dataset.dataset_name, f"{dataset.samples:,}", f"{size:,}", _number(batches / len(dataset)), passes)
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  " + "  ".join(cells))
    if done:
        lines.append(f"  goes on after step {trainer.global_step:,}, {into:,} batches into epoch {epochs + 1:,}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """For people.

    >>> duration(50), duration(3700), duration(200_000)
    ('1 min', '1 h 02 min', '55 h 33 min')
    """
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
