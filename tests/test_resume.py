"""Any sequence of stops, at any place, with checkpoints anywhere: weights, steps and curves are those of the undisturbed run."""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from data.rawdata import write_fashiongen, write_fashioniq
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from recording import Recorder, recorded
from small import small_backbone
from unifashion_pl.datamodules import FashionGenDataModule, FashionIQDataModule, MultiTaskDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.files import WriteError
from unifashion_pl.resume import WholeCheckpointIO
from unifashion_pl.tasks import RetrievalModule

HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_validation_batch_start", "on_validation_end", "on_train_epoch_end")


class Killed(BaseException):
    """In place of SIGKILL: nothing of this library or of Lightning handles it."""


class Stop(Checkpoint):
    """Stops a run when one of Lightning's hooks is called for the n-th time; last of all callbacks, or before those that save.

    Args:
        hook: its name.
        count: how many calls are let through.
    """

    def __init__(self, hook: str, count: int) -> None:
        self.count = count
        setattr(self, hook, self._call)

    def _call(self, *_: Any, **__: Any) -> None:
        self.count -= 1
        if self.count < 0:
            raise Killed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 triplets: epochs of 5 steps."""
    folder = tmp_path_factory.mktemp("resume")
    write_fashioniq(folder)
    FashionIQDataModule(folder, image_size=32).prepare_data()
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> Path:
    """Beside the triplets 36 pairs: epochs of 9 steps, or of 5 if triplets decide."""
    write_fashiongen(folder / "pairs")
    two(folder, {}).prepare_data()
    return folder


def two(folder: Path, setting: dict[str, Any]) -> MultiTaskDataModule:
    pairs = FashionGenDataModule(folder / "pairs", batch_size=4, image_size=32, eval_batch_size=8)
    triplets = FashionIQDataModule(folder, batch_size=4, image_size=32, eval_batch_size=8)
    return MultiTaskDataModule(pairs, triplets, epoch_of=setting.get("epoch_of"))


def fit(folder: Path, out: Path, setting: dict[str, Any], stops: list[Stop], first: bool = False) -> bool:
    """Train, from ``last.ckpt`` if it is there; returns whether training came to its end."""
    L.seed_everything(0, verbose=False)
    backbone = small_backbone(dropout=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = UniFashionModule(backbone, RetrievalModule(hidden_size=32, embed_dim=16))
    saver = ModelCheckpoint(out, filename="last", enable_version_counter=False, **setting["saver"])
    trainer = L.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=CSVLogger(out, name="", version=""),
        callbacks=[Recorder(str(out / "steps")), *([*stops, saver] if first else [saver, *stops])],
        **setting["trainer"],
    )
    one = FashionIQDataModule(folder, batch_size=4, image_size=32, eval_batch_size=8)
    data = two(folder, setting) if "epoch_of" in setting else one
    last = out / "last.ckpt"
    try:
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.exists() else None)
    except Killed:
        return False
    torch.save(module.state_dict(), out / "weights.pt")
    return True


def drawn(chance: random.Random) -> dict[str, Any]:
    """How a run is trained, and when its checkpoints are written."""
    validation = chance.choice(
        [{"limit_val_batches": 0}, {}, {"val_check_interval": 2}, {"val_check_interval": 3, "check_val_every_n_epoch": None}]
    )
    length = chance.choice([{"max_epochs": 3}, {"max_steps": 12, "max_epochs": -1}])
    accumulate = chance.choice([1, 1, 2])
    if accumulate > 1:
        length = {"max_epochs": 3}
    savers = [{"every_n_train_steps": n} for n in (1, 1, 2, 5)] + [{"save_on_train_epoch_end": True}]
    if validation != {"limit_val_batches": 0}:
        savers.append({})
    saver = {**chance.choice(savers), **chance.choice([{}, {"save_on_exception": True}])}
    return {"trainer": {**validation, **length, "accumulate_grad_batches": accumulate}, "saver": saver}


def same_as_undisturbed(folder: Path, tmp_path: Path, seed: int) -> None:
    """A drawn run, stopped some times, against the same one without stops."""
    chance = random.Random(seed)
    setting = drawn(chance)
    assert fit(folder, tmp_path / "whole", setting, [])
    stops = 0
    while stops < 6:
        hook = chance.choice(HOOKS[:2] if stops == 0 else HOOKS)
        if fit(folder, tmp_path / "stopped", setting, [Stop(hook, chance.randint(0, 5))], chance.random() < 0.5):
            break
        stops += 1
    else:
        assert fit(folder, tmp_path / "stopped", setting, [])
    assert stops
    assert_equal(tmp_path, setting)


def assert_equal(tmp_path: Path, setting: dict[str, Any]) -> None:
    whole, stopped = (torch.load(tmp_path / name / "weights.pt") for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole), setting
    assert recorded(tmp_path / "stopped/steps") == recorded(tmp_path / "whole/steps"), setting
    assert (tmp_path / "stopped/metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text(), setting


@pytest.mark.parametrize("seed", [0, 6])
def test_a_run_that_was_stopped_anywhere_equals_the_undisturbed_one(folder: Path, tmp_path: Path, seed: int) -> None:
    same_as_undisturbed(folder, tmp_path, seed)


#: (hook, calls that are let through) of two stops: in the middle of an epoch of triplets, at its end.
STOPS = [[("on_train_batch_start", 3), ("on_train_batch_end", 1)], [("on_train_batch_end", 4), ("on_train_epoch_end", 0)]]


@pytest.mark.parametrize("stops", STOPS)
@pytest.mark.parametrize("epoch_of", ["triplets", "pairs"])
def test_an_epoch_of_any_stream_goes_on_after_two_stops(
    both: Path, tmp_path: Path, epoch_of: str, stops: list[tuple[str, int]]
) -> None:
    setting = {"epoch_of": epoch_of, "trainer": {"max_epochs": 3, "limit_val_batches": 0}, "saver": {"every_n_train_steps": 1}}
    assert fit(both, tmp_path / "whole", setting, [])
    for hook, count in stops:
        assert not fit(both, tmp_path / "stopped", setting, [Stop(hook, count)])
    assert fit(both, tmp_path / "stopped", setting, [])
    assert_equal(tmp_path, setting)
    steps = recorded(tmp_path / "stopped/steps")
    assert list(steps) == [(epoch, n) for epoch in range(3) for n in range({"triplets": 5, "pairs": 9}[epoch_of])]
    keys = [key for step in steps.values() for key in step["keys"]["pairs"]]
    assert len(set(keys[:36])) == min(36, len(keys))  # a pass over the pairs goes on over the ends of epochs


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 40))
def test_more_of_them(folder: Path, tmp_path: Path, seed: int) -> None:
    same_as_undisturbed(folder, tmp_path, seed)


def test_the_place_of_checkpoints_is_looked_at_first(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(WriteError, match="cannot write .*taken"):
        fit(folder, tmp_path / "taken", drawn(random.Random(0)), [])


def test_checkpoints_are_whole_files_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    io, path = WholeCheckpointIO(), tmp_path / "new" / "last.ckpt"
    io.save_checkpoint({"a": torch.ones(3)}, path)
    assert torch.equal(io.load_checkpoint(path)["a"], torch.ones(3))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match="No space left on device"):
        io.save_checkpoint({"a": torch.zeros(3)}, path)
    assert torch.equal(io.load_checkpoint(path)["a"], torch.ones(3))
    assert os.listdir(path.parent) == ["last.ckpt"]
