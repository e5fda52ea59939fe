"""What one training step did: losses, gradients by part, seconds and memory, written as JSON by a callback of the trainer."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from unifashion_pl.freezing import part_of

GIB = 2**30


class Enough(Exception):
    """Everything was seen that was wanted: the run ends before its optimiser's step."""


def peak() -> float:
    """GiB of this process's largest resident set so far, mapped files counted."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size * (1 if sys.platform == "darwin" else 1024) / GIB


def gradients(model: torch.nn.Module) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Part -> its parameters that train, how many of them have a gradient that is finite, and all their gradients' norm; and what is wrong.

    Wrong is a frozen parameter with a gradient, one that trains without, a gradient that is NaN or infinite, and a part that trains whose
    gradients are all zero.
    """
    parts: dict[str, dict[str, Any]] = {}
    wrong = []
    for name, parameter in model.named_parameters():
        row = parts.setdefault(part_of(name) or "?", {"trains": 0, "frozen": 0, "finite": 0, "square": 0.0})
        grad = parameter.grad
        row["trains" if parameter.requires_grad else "frozen"] += 1
        if parameter.requires_grad != (grad is not None):
            wrong.append(f"{name} {'trains and has no gradient' if grad is None else 'is frozen and has a gradient'}")
        elif grad is not None:
            norm = float(torch.linalg.vector_norm(grad.detach(), dtype=torch.float32))
            row["square"] += norm**2
            row["finite"] += norm < float("inf")
            if not norm < float("inf"):
                wrong.append(f"{name} has a gradient that is not finite")
    for part, row in parts.items():
        row["norm"] = row.pop("square") ** 0.5
        if row["trains"] and not row["norm"]:
            wrong.append(f"{part} trains and all its gradients are zero")
    return parts, wrong


class Recorder(L.Callback):
    """Writes one step's record into a file.

    Args:
        path: of the JSON; what stands there already is kept beside it.
        update: take the optimiser's step too; else :class:`Enough` is raised before it.
    """

    def __init__(self, path: str, update: bool = True) -> None:
        self.path, self.update = Path(path), update
        self.record: dict[str, Any] = {}
        self.begun = time.monotonic()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The model is there, the data not yet."""
        self._note(built_gib=peak(), model_gib=sum(t.nbytes for t in pl_module.state_dict().values()) / GIB)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        streams = batch if isinstance(batch, dict) else {"": batch}
        self._note(rows={name: len(part) for name, part in streams.items()})
        self.begun = time.monotonic()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradients before they are clipped."""
        backward = time.monotonic() - self.begun
        parts, wrong = gradients(pl_module)
        losses = {name: float(value) for name, value in trainer.callback_metrics.items() if isinstance(value, Tensor)}
        wrong += [f"{name} is {value}" for name, value in losses.items() if not abs(value) < float("inf")]
        self._note(parts=parts, wrong=wrong, losses=losses, backward_seconds=backward, backward_gib=peak())
        if not self.update:
            raise Enough

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock."""
        self._note(step_seconds=time.monotonic() - self.begun, peak_gib=peak())

    def _note(self, **found: Any) -> None:
        self.record |= found
        self.path.write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")
