"""A training that is told to end writes a checkpoint first: SLURM's preemption and time limit, and SIGTERM of anybody.

Lightning 2.6 saves in the signal's handler, so in the middle of whatever the training does: perhaps with half of the parameters updated. Here a
signal is noted, and the checkpoint is written where a batch has ended, so that the run that goes on equals an undisturbed one. It lies
beside the run's other checkpoints, not in the current folder, where the next training would take it for its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

#: Lightning's name for checkpoints of jobs that are put into the queue again.
PATTERN = "hpc_ckpt_*.ckpt"


class Preemption(Checkpoint):
    """Last of all callbacks, because it saves what those before it have done.

    Under SLURM, SIGTERM (preemption) saves and ends; the signal that a job asks for before its time is over (``#SBATCH --signal=SIGUSR1@90``)
    also puts the job into the queue again by ``scontrol requeue``. Elsewhere SIGTERM saves where one process trains. A run without a
    ModelCheckpoint of a folder on a disk saves nothing. With several processes a validation comes to its end first.

    Attributes:
        last_model_path: the checkpoint that was written; "" = none.
    """

    def __init__(self) -> None:
        self.last_model_path = ""
        self.noted: set[int] = set()
        self.requeue: int | None = None
        self.managed = self.done = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Under SLURM, take the signals over from Lightning."""
        cluster = trainer._accelerator_connector.cluster_environment
        if not (isinstance(cluster, SLURMEnvironment) and cluster.auto_requeue):
            return
        self.managed = True
        self.requeue = None if cluster.requeue_signal is None else int(cluster.requeue_signal)
        if threading.current_thread() is threading.main_thread():
            for number in (int(signal.SIGTERM), *(() if self.requeue is None else (self.requeue,))):
                signal.signal(number, self._note)  # Lightning restores what was there before it

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted.add(number)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if the run is to end, on all ranks after the same batch."""
        self._heed(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """The same; several ranks may have unequal numbers of these batches, so that they cannot agree here."""
        if trainer.world_size == 1 and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._heed(trainer)

    def _heed(self, trainer: L.Trainer) -> None:
        if self.done or (not self.managed and (trainer.world_size > 1 or not trainer.received_sigterm)):
            return
        ends, again = (number in self.noted for number in (int(signal.SIGTERM), self.requeue))
        if self.managed and trainer.world_size > 1:
            ends, again = (trainer.strategy.reduce_boolean_decision(told, all=False) for told in (ends, again))
        if self.managed and not (ends or again):
            return
        self.noted.clear()
        self._save(trainer)
        put_back = requeued() if again and trainer.is_global_zero else True
        if ends or not again or trainer.strategy.broadcast(put_back):
            self.done = trainer._signal_connector.received_sigterm = (
                True  # Lightning ends when it has written this batch's rows
            )

    def _save(self, trainer: L.Trainer) -> None:
        saver = next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)), None)
        if saver is None or "://" in str(saver.dirpath):
            return
        folder = Path(str(saver.dirpath))
        older = {path: int(found[1]) for path in folder.glob(PATTERN) if (found := re.search(r"_(\d+)\.ckpt$", path.name))}
        place = folder / f"hpc_ckpt_{max(older.values(), default=0) + 1}.ckpt"
        trainer.strategy.barrier("named")  # every rank has looked before the file is there
        trainer.save_checkpoint(place)
        self.last_model_path = str(place)
        if trainer.is_global_zero:
            for path in older:
                path.unlink(missing_ok=True)
            print(f"told to end: wrote {place} after step {trainer.global_step:,}", flush=True)


def job(env: Mapping[str, str] = os.environ) -> str:
    """SLURM's name of this job, as ``scontrol`` takes it; "" outside of one.

    >>> job({"SLURM_JOB_ID": "7"}), job({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "2"}), job({})
    ('7', '8_2', '')
    """
    whole = env.get("SLURM_ARRAY_JOB_ID")
    name = env.get("SLURM_JOB_ID", "") if whole is None else f"{whole}_{env.get('SLURM_ARRAY_TASK_ID', '')}"
    return name if re.fullmatch(r"\d+(_\d+)?", name) else ""


def requeued() -> bool:
    """Put this job into SLURM's queue again; whether that was done, which is said either way."""
    name = job()
    try:
        done = bool(name) and subprocess.run(["scontrol", "requeue", name], check=False).returncode == 0
    except OSError:
        done = False
    if done:
        print(f"job {name} is in the queue again: with --resume auto it goes on from this checkpoint", flush=True)
    else:
        print(
            f"`scontrol requeue {name}` failed: the training goes on until it is ended; start it again with --resume auto",
            flush=True,
        )
    return done
