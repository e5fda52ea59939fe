"""Averaged weights: what the checkpoint holds, who loads it, how a run goes on (``--config ema.yaml``)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from small import editor, tryon_batch
from torch import Tensor

from unifashion_pl import UniFashionModule
from unifashion_pl.callbacks import LearntAverage
from unifashion_pl.configs import resolve_config
from unifashion_pl.freezing import part_of
from unifashion_pl.optim import OptimSettings
from unifashion_pl.weights.checkpoint import load_weights

DECAY = 0.7


def model() -> UniFashionModule:
    built = editor("editing_control")
    built.optim = OptimSettings(diffusion_lr=1e-2)
    return built


class Recorder(L.Callback):
    """The weights after every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.steps.append({name: p.detach().clone() for name, p in pl_module.state_dict().items()})


def trained(built: UniFashionModule, steps: int, folder: Path, *more: L.Callback, **fit: Any) -> tuple[L.Trainer, Recorder]:
    """As ``ema.yaml`` configures it, but for the decay."""
    settings = yaml.safe_load(Path(resolve_config("ema.yaml")).read_text())["trainer"]["callbacks+"][0]
    assert settings["class_path"] == "unifashion_pl.callbacks.LearntAverage"
    recorder = Recorder()
    trainer = L.Trainer(
        max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", default_root_dir=folder,
        callbacks=[recorder, LearntAverage(**{**settings["init_args"], "decay": DECAY}), *more],
    )  # fmt: skip
    torch.manual_seed(0)
    loader: Any = torch.utils.data.DataLoader([{"tryon": tryon_batch(2)}] * steps, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(built, loader, **fit)
    return trainer, recorder


@pytest.mark.filterwarnings("ignore:.*WeightAveraging callback.*")
def test_a_checkpoint_holds_the_average_and_the_trained_weights(tmp_path: Path) -> None:
    built = model()
    trainer, recorder = trained(built, 3, tmp_path)
    trainer.save_checkpoint(tmp_path / "ema.ckpt")
    saved = torch.load(tmp_path / "ema.ckpt", weights_only=True)
    expected = recorder.steps[0]
    for step in recorder.steps[1:]:
        expected = {n: DECAY * x + (1 - DECAY) * step[n] if x.is_floating_point() else step[n] for n, x in expected.items()}
    assert saved["state_dict"].keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(saved["state_dict"][name], tensor, atol=1e-6, rtol=1e-5, msg=name)
    moved = [n for n in built.trainable_names if not torch.equal(expected[n], recorder.steps[-1][n])]
    assert len(moved) > 50
    count = "diffusion_head.num_queries"
    assert int(saved["state_dict"][count]) == int(recorder.steps[-1][count]) == 4

    fresh = model()
    load_weights(fresh, str(tmp_path / "ema.ckpt"))  # what init_from and from_pretrained do
    for name, tensor in expected.items():
        torch.testing.assert_close(fresh.state_dict()[name], tensor, atol=1e-6, rtol=1e-5, msg=name)
    # training over, the model itself is the average: what is painted next is painted by it
    assert all(torch.equal(tensor, saved["state_dict"][name]) for name, tensor in built.state_dict().items())


class Stop(L.Callback):
    """Saves after the second step, in the middle of training."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


class Start(L.Callback):
    """The weights that training begins with."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.state = self.state or copy.deepcopy(pl_module.state_dict())


@pytest.mark.filterwarnings("ignore:.*WeightAveraging callback.*")
@pytest.mark.parametrize("leave_out", [[], ["vae"]])
def test_a_resumed_run_trains_on_the_trained_weights(tmp_path: Path, leave_out: list[str]) -> None:
    """Parts that building the model brings back are in neither of a checkpoint's two sets of weights."""
    built, resumed = model(), model()
    built.leave_out = resumed.leave_out = leave_out
    _, recorder = trained(built, 2, tmp_path, Stop(tmp_path / "half.ckpt"))
    half = torch.load(tmp_path / "half.ckpt", weights_only=True)
    last = recorder.steps[-1]
    expected = {name for name in last if part_of(name) not in leave_out}
    assert len(expected) < len(last) or not leave_out
    assert half["state_dict"].keys() == half["current_model_state"].keys() == expected
    assert all(torch.equal(tensor, last[name]) for name, tensor in half["current_model_state"].items())
    start = Start()
    trained(resumed, 3, tmp_path, start, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert all(torch.equal(tensor, last[name]) for name, tensor in start.state.items())


@pytest.mark.filterwarnings("ignore:.*WeightAveraging callback.*")
def test_what_does_not_learn_is_not_held_twice_and_stays_as_it_is(tmp_path: Path) -> None:
    built = model()
    before = {name: p.detach().clone() for name, p in built.named_parameters() if not p.requires_grad}
    trainer, _ = trained(built, 3, tmp_path)
    averages = [callback._average_model for callback in trainer.callbacks if isinstance(callback, LearntAverage)]  # type: ignore[attr-defined]
    assert averages[0] is not None
    copies = dict(averages[0].module.named_parameters(remove_duplicate=False))
    for name, parameter in built.named_parameters(remove_duplicate=False):
        assert (copies[name] is parameter) == (name not in built.trainable_names), name
    assert before
    assert all(torch.equal(p, before[name]) for name, p in built.named_parameters() if name in before)


def test_a_decay_of_one_would_never_learn() -> None:
    with pytest.raises(ValueError, match="decay is 1.0, expected 0 to 1, 1 excluded"):
        LearntAverage(decay=1.0)
