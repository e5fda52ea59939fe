"""A training that is told to end by a signal, as SLURM gives it, goes on by itself, and ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from unifashion_pl.cli import main
from unifashion_pl.preemption import job, requeued

STEPS = 12
SLURM = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "4242", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
FIT = ["fit", "--config", "phase1.yaml", "--data.size", "tiny", "--data.batch_size", "6", "--trainer.max_steps", str(STEPS)]
FIT += [
    "--model.caption",
    "null",
    "--model.diffusion",
    "null",
    "--trainer.accelerator",
    "cpu",
    "--trainer.log_every_n_steps",
    "1",
]
FIT += [
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.check_val_every_n_epoch",
    "null",
    "--trainer.val_check_interval",
    "5",
]
FIT += ["--trainer.max_epochs", "-1", "--data.eval_batch_size", "16"]


class Signal(L.Callback):
    """Sends a signal to its own process when a batch of that number begins: in training, or in the first validation; on one rank."""

    def __init__(self, number: int, step: int, validation: bool = False, rank: int = 0) -> None:
        self.number, self.step, self.validation, self.rank = number, step, validation, rank

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.validation and (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.validation and batch_idx == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def state(folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Weights and curves of a finished run."""
    content = torch.load(folder / "runs/phase1/checkpoints/last.ckpt", weights_only=False)
    assert content["global_step"] == STEPS
    return content["state_dict"], (folder / "runs/phase1/metrics.csv").read_text()


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], str]:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("UNIFASHION_CACHE", str(cache))
        main([*FIT, "--resume", "auto"])  # there is nothing to go on from: it begins
    return state(folder)


@pytest.fixture
def here(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIFASHION_CACHE", str(cache))
    return tmp_path


def same(folder: Path, whole: tuple[dict[str, torch.Tensor], str]) -> None:
    weights, curves = state(folder)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in whole[0].items())
    assert curves == whole[1]


@pytest.mark.parametrize(("step", "validation"), [(4, False), (1, True)])
def test_sigterm_saves_and_resume_auto_goes_on(
    step: int, validation: bool, here: Path, whole: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the batch before a validation, and within it."""
    one = {"class_path": "test_preemption.Signal", "init_args": {"number": 15, "step": step, "validation": validation}}
    with pytest.raises(SystemExit) as ended:
        main([*FIT, "--resume", "auto", "--trainer.callbacks+", json.dumps(one)])
    assert ended.value.code == 128 + signal.SIGTERM
    said = capsys.readouterr()
    after = 5 if validation else step + 1
    assert "no checkpoint is there yet in runs/phase1" in said.out
    assert f"wrote runs/phase1/checkpoints/hpc_ckpt_1.ckpt after step {after}" in said.out.replace(f"{here}/", "")
    assert "--resume auto" in said.err
    assert "--ckpt_path" not in said.err
    main([*FIT, "--resume", "auto"])
    assert f"resume: goes on after step {after} from runs/phase1/checkpoints/hpc_ckpt_1.ckpt" in capsys.readouterr().out
    same(here, whole)


def test_slurm_ends_a_job_in_time_and_runs_it_again(here: Path, whole: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The signal that it sends before the time is over reaches a process that trains; the job asks for its place in the queue."""
    asked = here / "asked"
    scontrol = here / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    scontrol.chmod(0o755)
    env = {
        **os.environ,
        **SLURM,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent),
        "PATH": f"{scontrol.parent}:{os.environ['PATH']}",
    }
    one = {"class_path": "test_preemption.Signal", "init_args": {"number": int(signal.SIGUSR1), "step": 6}}
    line = [sys.executable, "-m", "unifashion_pl", *FIT, "--trainer.callbacks+", json.dumps(one)]
    with open(here / "log.txt", "wb") as log:
        code = subprocess.run(line, cwd=here, env=env, stdout=log, stderr=log, timeout=250, check=False).returncode
    text = (here / "log.txt").read_text()
    assert code == 128 + signal.SIGTERM, text[-2000:]
    assert asked.read_text() == "requeue 4242\n"
    assert "job 4242 is in the queue again" in text
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_RESTART_COUNT", "1")
        main(FIT)  # the same script, that says nothing of a resume
    assert "resume: goes on after step 7 from" in capsys.readouterr().out
    same(here, whole)


def two_ranks(folder: Path, more: list[str], env: dict[str, str]) -> list[int]:
    """Two processes as srun starts them; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp", *more]
    children = []
    for rank in ("0", "1"):
        own = {
            **env,
            "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "2",
            "SLURM_PROCID": rank,
            "SLURM_LOCALID": rank,
            "SLURM_NODEID": "0",
        }
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        line = [sys.executable, "-m", "unifashion_pl", *FIT, *ddp]
        with open(folder / f"log-{rank}.txt", "ab") as log:
            children.append(subprocess.Popen(line, cwd=folder, env=own, stdout=log, stderr=log))
    return [child.wait(timeout=600) for child in children]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ranks_end_after_one_batch_though_the_signal_reached_one_of_them(here: Path) -> None:
    """And what two ranks make of it in the end is what two undisturbed ones make."""
    env = {**os.environ, **SLURM, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    (here / "whole").mkdir()
    assert two_ranks(here / "whole", [], env) == [0, 0]
    one = {"class_path": "test_preemption.Signal", "init_args": {"number": int(signal.SIGTERM), "step": 6, "rank": 1}}
    assert two_ranks(here, ["--trainer.callbacks+", json.dumps(one)], env) == [128 + signal.SIGTERM] * 2
    assert [path.name for path in (here / "runs/phase1/checkpoints").iterdir()] == ["hpc_ckpt_1.ckpt"]
    assert two_ranks(here, ["--resume", "auto"], env) == [0, 0]
    assert "resume: goes on after step 7 from" in (here / "log-0.txt").read_text()
    same(here, state(here / "whole"))


def test_the_queue_may_refuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert not requeued()
    monkeypatch.setenv("SLURM_JOB_ID", "7; rm")
    assert job() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not requeued()  # no scontrol
    assert "`scontrol requeue 7` failed" in capsys.readouterr().out
