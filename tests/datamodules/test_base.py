"""A run that is stopped and resumed sees the batches and has the losses of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from data.rawdata import write_fashiongen, write_fashioniq
from lightning.pytorch.callbacks import ModelCheckpoint
from recording import Recorder, recorded
from small import UNET, VAE, small_backbone
from unifashion_pl.datamodules import FashionGenDataModule, FashionIQDataModule, MixedPairsDataModule, MultiTaskDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.callbacks import seed_all
from unifashion_pl.generation import Denoiser, ImageVAE
from unifashion_pl.tasks import DiffusionModule, RetrievalModule

EPOCHS = 2
QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pairs and 24 triplets, with shards."""
    folder = tmp_path_factory.mktemp("resume")
    write_fashiongen(folder / "pairs")
    write_fashioniq(folder / "triplets")
    data(folder).prepare_data()
    return folder


def data(folder: Path, workers: int = 0, seed: int = 0, batch_size: int = 6) -> MultiTaskDataModule:
    """Epochs of 6 steps: pairs mixed of 6 and 5 batches, 5 batches of triplets; the shorter ones are in their next epochs by then."""
    common: dict[str, Any] = {"num_workers": workers, "image_size": 32, "pixel_size": (32, 32), "seed": seed}
    pairs = [FashionGenDataModule(folder / "pairs", batch_size=n, **common) for n in (batch_size, batch_size + 1)]
    triplets = FashionIQDataModule(folder / "triplets", batch_size=4, **common)
    return MultiTaskDataModule(MixedPairsDataModule(pairs), triplets)


def model() -> UniFashionModule:
    """A small model with dropout, noise, timesteps and drawn negatives: everything that is random in a step."""
    backbone = small_backbone(dropout=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusion = DiffusionModule(
            denoiser=Denoiser(config=UNET),
            vae=ImageVAE(config=VAE),
            context="tsa",
            query_width=32,
            size=(32, 32),
            max_samples=2,
        )
        return UniFashionModule(backbone, RetrievalModule(hidden_size=32, embed_dim=16), diffusion=diffusion)


def fit(folder: Path, out: Path, resume: str | None = None, seed: int = 0, data_seed: int = 0, **options: Any) -> Path:
    """Train for two epochs with a checkpoint after every step; returns where the steps are recorded."""
    L.seed_everything(seed, verbose=False)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=False,
        **QUIET,
        default_root_dir=out,
        callbacks=[
            Recorder(str(out / "steps")),
            ModelCheckpoint(out / "checkpoints", filename="{step}", every_n_train_steps=1, save_top_k=-1),
        ],
    )
    trainer.fit(model(), datamodule=data(folder, seed=data_seed, **options), ckpt_path=resume)
    return out / "steps"


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run."""
    out = tmp_path_factory.mktemp("whole")
    fit(folder, out)
    return out


def test_the_undisturbed_run_is_what_is_compared(whole: Path) -> None:
    steps = recorded(whole / "steps")
    assert list(steps) == [(epoch, batch) for epoch in range(EPOCHS) for batch in range(6)]
    totals = [step["losses"]["total"] for step in steps.values()]
    assert len(set(totals)) == len(totals)
    assert {"train/pairs/itc", "train/pairs/itm", "train/pairs/q2i", "train/triplets/cir_itc"} <= set(steps[0, 0]["losses"])


@pytest.mark.parametrize(("step", "workers"), [(2, 0), (6, 0), (9, 2)])
def test_a_resume_has_the_batches_and_the_losses_of_the_undisturbed_run(
    folder: Path, whole: Path, tmp_path: Path, step: int, workers: int
) -> None:
    """In the middle of the first epoch, after its last batch, in the middle of the second with other workers."""
    resumed = recorded(fit(folder, tmp_path, str(whole / f"checkpoints/step={step}.ckpt"), workers=workers))
    expected = {place: line for place, line in recorded(whole / "steps").items() if line["step"] > step}
    assert list(resumed) == list(expected)
    assert resumed == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seeded with 0, now seed_everything is 1"),
        ({"data_seed": 1}, "seed was 0, now it is 1"),
        ({"batch_size": 4}, "batch_size was 6, now it is 4"),
    ],
)
def test_a_resume_under_other_conditions_names_both_values(
    folder: Path, whole: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(folder, tmp_path, str(whole / "checkpoints/step=2.ckpt"), **change)


def test_a_resume_with_other_streams_names_both(folder: Path, whole: Path, tmp_path: Path) -> None:
    alone = MultiTaskDataModule(triplets=data(folder).parts["triplets"])
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, limit_val_batches=0, logger=False, **QUIET, default_root_dir=tmp_path
    )
    with pytest.raises(
        (ValueError, RuntimeError), match="the run trained on the streams pairs, triplets, now there are triplets"
    ):
        trainer.fit(model(), datamodule=alone, ckpt_path=str(whole / "checkpoints/step=2.ckpt"))


def test_random_numbers_of_a_step_depend_on_seed_rank_epoch_and_batch() -> None:
    def drawn(name: str) -> tuple[float, float, float]:
        seed_all(name)
        return float(torch.rand(())), float(np.random.rand()), random.random()

    names = [f"{seed}/{rank}/{epoch}/{batch}" for seed in (0, 1) for rank in (0, 1) for epoch in (0, 1) for batch in (0, 1, 10)]
    values = [drawn(name) for name in names]
    assert values == [drawn(name) for name in names]
    assert all(len({value[i] for value in values}) == len(names) for i in range(3))


# the command line, killed


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 1)])
def test_a_run_that_is_killed_again_and_again_equals_one_that_is_not(tmp_path: Path, ranks: int, workers: int) -> None:
    """Three streams as in phase 2, all heads; SIGKILL of every process of the run at three random steps."""
    chance = random.Random(f"kill {ranks}")
    whole = start(tmp_path, "whole", ranks, workers)
    assert whole.wait() == 0
    killed, resume = tmp_path / "killed", False
    for _ in range(3):
        process = start(tmp_path, "killed", ranks, workers, resume)
        wait_for_steps(killed / "steps", len(recorded(killed / "steps")) + chance.randint(2, 4), process)
        time.sleep(chance.random() / 2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        resume = True
    assert start(tmp_path, "killed", ranks, workers, resume).wait() == 0
    for rank in range(ranks):
        expected = recorded(tmp_path / "whole/steps", rank)
        assert len(expected) == STEPS
        assert recorded(killed / "steps", rank) == expected
    if ranks == 2:
        first, second = (recorded(tmp_path / "whole/steps", rank) for rank in (0, 1))
        for place, line in first.items():
            assert not set(line["keys"]["triplets"]) & set(second[place]["keys"]["triplets"])


STEPS = 16


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_ranks_validate_every_sample_exactly_once(tmp_path: Path) -> None:
    """Through Lightning's ddp; numbers of samples that three does not divide, so ranks have unequal numbers of them."""
    seen = {}
    for ranks in (1, 3):
        process = start(tmp_path, f"ranks-{ranks}", ranks, 2, command="validate")
        assert process.wait() == 0, (tmp_path / f"ranks-{ranks}/log.txt").read_text()[-2000:]
        files = sorted((tmp_path / f"ranks-{ranks}/steps").glob("validation-*.jsonl"))
        assert len(files) == ranks
        seen[ranks] = [file.read_text().splitlines() for file in files]
    assert Counter(line for lines in seen[3] for line in lines) == Counter(seen[1][0])
    assert set(Counter(seen[1][0]).values()) == {1}
    assert len({len(lines) for lines in seen[3]}) > 1


def start(
    folder: Path, name: str, ranks: int, workers: int, resume: bool = False, command: str = "fit"
) -> subprocess.Popen[bytes]:
    """``unifashion fit`` or another command in a process group of its own."""
    out = folder / name
    out.mkdir(exist_ok=True)
    callbacks = [
        {"class_path": "recording.Recorder", "init_args": {"folder": str(out / "steps")}},
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": str(out), "filename": "last", "enable_version_counter": False, "every_n_train_steps": 1},
        },
    ]
    trainer = {"devices": ranks, "strategy": "ddp" if ranks > 1 else "auto", "accelerator": "cpu", "max_steps": STEPS}
    trainer |= {
        "limit_val_batches": 0 if command == "fit" else 1.0,
        "logger": False,
        "enable_progress_bar": False,
        "log_every_n_steps": 1,
    }
    sizes = {"batch_size": 6, "triplet_batch_size": 4, "num_workers": workers, "size": "tiny", "root": str(folder / "cache")}
    config = {
        "trainer": {**trainer, "callbacks": callbacks},
        "model": {"init_from": None, "backbone": {"init_args": {"dropout": 0.1}}},
        "data": {"init_args": sizes},
    }
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    line = [sys.executable, "-m", "unifashion_pl", command, "--config", "phase2.yaml", "--config", str(out / "config.yaml")]
    if resume:
        line += ["--ckpt_path", str(out / "last.ckpt")]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    env.pop("PL_GLOBAL_SEED", None)
    with open(out / "log.txt", "ab") as log:
        return subprocess.Popen(line, cwd=out, env=env, stdout=log, stderr=log, start_new_session=True)


def wait_for_steps(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until so many steps are recorded by a process that runs."""
    while len(recorded(folder)) < count:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)


def test_a_datamodule_says_what_it_reads(folder: Path) -> None:
    data = FashionGenDataModule(folder / "pairs", batch_size=6)
    assert repr(data) == str(data)
    assert repr(data).startswith(f"FashionGenDataModule(root='{folder / 'pairs'}', ")
    assert repr(MultiTaskDataModule(data)).startswith("MultiTaskDataModule(")
