"""A callback that notes what every training step saw and lost, line by line, so that a killed run leaves what it had done."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L

Step = tuple[int, int]


class Recorder(L.Callback):
    """Writes ``folder/rank-R.jsonl``, one line per step: epoch, batch, keys by stream, all losses as exact hexadecimals.

    Args:
        folder: made if absent; files are appended to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """``validation-R.jsonl``: one line per sample, loader, category and key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        categories = getattr(batch, "categories", [""] * len(batch))
        with open(self.folder / f"validation-{trainer.global_rank}.jsonl", "a") as file:
            file.writelines(f"{json.dumps([dataloader_idx, *row])}\n" for row in zip(categories, batch.keys))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        losses = {k: float(v).hex() for k, v in trainer.logged_metrics.items() if k.startswith("train/")}
        losses["total"] = float(outputs["loss"]).hex()
        line = {
            "epoch": trainer.current_epoch,
            "batch": batch_idx,
            "step": trainer.global_step,
            "keys": {name: part.keys for name, part in batch.items()},
            "texts": {name: part.texts for name, part in batch.items()},
            "losses": losses,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"rank-{trainer.global_rank}.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")


def recorded(folder: Path, rank: int = 0) -> dict[Step, dict[str, Any]]:
    """(epoch, batch) -> what was noted; of a step that was done twice, as after a kill, the last. A half last line is left out."""
    path = folder / f"rank-{rank}.jsonl"
    lines: Iterable[str] = path.read_text().splitlines(keepends=True) if path.exists() else ()
    steps = [json.loads(line) for line in lines if line.endswith("\n")]
    return {(step["epoch"], step["batch"]): step for step in steps}
