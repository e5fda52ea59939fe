"""Lightning's toolbox, each tool through the command line and through ``Trainer``: it runs, or a sentence says why it cannot."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from data.rawdata import write_fashiongen
from lightning.pytorch import callbacks as tools
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from small import small_backbone
from unifashion_pl.datamodules import FashionGenDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.callbacks import LearntAverage
from unifashion_pl.cli import main
from unifashion_pl.optim import OptimSettings
from unifashion_pl.tasks import RetrievalModule

OURS = {"LearntAverage": LearntAverage}
KEY = "val/fashiongen/mean"

#: Name -> callbacks with their arguments, and options of the trainer.
RUNS: dict[str, tuple[dict[str, dict[str, Any]], dict[str, Any]]] = {
    "learning rate monitor": ({"LearningRateMonitor": {}}, {}),
    "learning rate finder": ({"LearningRateFinder": {"num_training_steps": 3, "early_stop_threshold": None}}, {}),
    "batch size finder": ({"BatchSizeFinder": {"steps_per_trial": 1, "init_val": 8, "margin": 0.0}}, {}),
    "early stopping": ({"EarlyStopping": {"monitor": KEY, "mode": "max", "patience": 0}}, {"max_epochs": 50}),
    "SWA": ({"StochasticWeightAveraging": {"swa_lrs": 1e-4, "swa_epoch_start": 1}}, {}),
    "EMA": ({"EMAWeightAveraging": {"decay": 0.5}}, {}),
    "weight averaging": ({"WeightAveraging": {}}, {}),
    "our average": ({"LearntAverage": {"decay": 0.5}}, {}),
    "scheduled accumulation": ({"GradientAccumulationScheduler": {"scheduling": {0: 2, 1: 1}}}, {}),
    "timer": ({"Timer": {"duration": "00:00:01:00", "interval": "step"}}, {}),
    "summary": ({"ModelSummary": {"max_depth": 2}}, {}),
    "simple profiler": ({}, {"profiler": "simple"}),
    "advanced profiler": ({}, {"profiler": "advanced"}),
    "overfit": ({}, {"overfit_batches": 1}),
    "fast dev run": ({}, {"fast_dev_run": True}),
    "time": ({}, {"max_time": "00:00:01:00"}),
    "accumulation": ({}, {"accumulate_grad_batches": 4}),
    "limits": ({}, {"limit_train_batches": 2, "limit_val_batches": 1}),
    "clipping by value": ({}, {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}),
    "validation within an epoch": ({}, {"val_check_interval": 2}),
    "reloaded loaders": ({}, {"reload_dataloaders_every_n_epochs": 1}),
    "deterministic": ({}, {"deterministic": True}),
    "bf16-mixed": ({}, {"precision": "bf16-mixed"}),
    "bf16-true": ({}, {"precision": "bf16-true"}),
    "16-mixed": ({}, {"precision": "16-mixed"}),  # on a CPU Lightning warns and takes bf16-mixed
    "64-true": ({}, {"precision": "64-true"}),
    "rich bar": ({"RichProgressBar": {}}, {"enable_progress_bar": True}),
    "steps under a bar": ({}, {"enable_progress_bar": True, "max_epochs": -1, "max_steps": 3}),
}  # fmt: skip
SLOW: dict[str, tuple[dict[str, dict[str, Any]], dict[str, Any]]] = {
    "PyTorch's profiler": ({}, {"profiler": "pytorch"}),
    "anomalies": ({}, {"detect_anomaly": True}),
    "ddp_spawn": ({}, {"strategy": "ddp_spawn", "devices": 2}),
}
CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "num_sanity_val_steps": 0, "log_every_n_steps": 1,
                "enable_progress_bar": False, "use_distributed_sampler": False,
                "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": "one", "version": ""}},
                "callbacks": [{"class_path": "ModelCheckpoint", "init_args": {
                    "dirpath": "runs/one/checkpoints", "filename": "last", "enable_version_counter": False, "save_on_train_epoch_end": True}}]},
    "model": {"policy": "phase1_retrieval",
              "backbone": {"class_path": "unifashion_pl.backbone.QFormerBackbone", "init_args": {
                  "vision": {"class_path": "unifashion_pl.backbone.VisionTower", "init_args": {
                      "name": "resnet10t", "image_size": 32, "timm_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8, "output_stride": 8}}},
                  "num_queries": 4, "hidden_size": 32, "num_layers": 4, "num_heads": 2, "intermediate_size": 64}},
              "retrieval": {"class_path": "unifashion_pl.tasks.RetrievalModule", "init_args": {"hidden_size": 32, "embed_dim": 16}}},
    "data": {"class_path": "unifashion_pl.datamodules.FashionGenDataModule", "init_args": {"root": "pairs", "image_size": 32, "batch_size": 12}},
}  # fmt: skip

ALL = {**RUNS, **SLOW}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pairs to learn from."""
    folder = tmp_path_factory.mktemp("toolbox") / "pairs"
    write_fashiongen(folder)
    FashionGenDataModule(folder, image_size=32).prepare_data()
    return folder


@pytest.fixture
def folder(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a config and its data lie."""
    (tmp_path / "pairs").symlink_to(shards)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(callbacks: dict[str, dict[str, Any]], trainer: dict[str, Any]) -> list[str]:
    """As somebody would type them."""
    out: list[str] = []
    for name, arguments in callbacks.items():
        path = f"unifashion_pl.callbacks.{name}" if name in OURS else name
        out += ["--trainer.callbacks+", json.dumps({"class_path": path, "init_args": arguments})]
    for name, value in trainer.items():
        out += [f"--trainer.{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return out


def model(**settings: Any) -> UniFashionModule:
    torch.manual_seed(0)
    return UniFashionModule(
        small_backbone(), RetrievalModule(hidden_size=32, embed_dim=16), policy="phase1_retrieval", **settings
    )


def data(folder: Path) -> FashionGenDataModule:
    return FashionGenDataModule(folder / "pairs", image_size=32, batch_size=12)


def trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    L.seed_everything(0, verbose=False)
    kept = ModelCheckpoint(folder / "kept", "last", enable_version_counter=False, save_on_train_epoch_end=True)
    usual: dict[str, Any] = {
        **CONFIG["trainer"],
        "logger": CSVLogger(folder, version=""),
        "enable_model_summary": False,
        **options,
    }
    return L.Trainer(**{**usual, "default_root_dir": folder, "callbacks": [kept, *callbacks]})


def some(*quick: str) -> list[Any]:
    """All names, of which the others are for the slow tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in ALL]


@pytest.mark.parametrize("name", some("learning rate finder", "SWA", "64-true"))
def test_a_tool_runs_on_the_command_line(name: str, folder: Path) -> None:
    main(["fit", "--config", "tiny.yaml", *options(*ALL[name])])
    assert (folder / "runs/one/checkpoints/last.ckpt").is_file() != ("fast" in name)


@pytest.mark.parametrize("name", some("EMA", "fast dev run"))
def test_a_tool_runs_in_a_trainer(name: str, folder: Path) -> None:
    callbacks, further = ALL[name]
    made = [(OURS.get(kind) or getattr(tools, kind))(**arguments) for kind, arguments in callbacks.items()]
    run = trainer(folder, *made, **further)
    run.fit(model(), datamodule=data(folder))
    assert run.state.finished
    assert (folder / "kept/last.ckpt").is_file() != ("fast" in name)


def test_swa_s_model_is_the_mean_of_the_epochs_ends(folder: Path) -> None:
    """Of those before the last epoch, as Lightning takes them."""
    ends: list[torch.Tensor] = []

    class Ends(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
            ends.append(module.backbone.query_tokens.detach().clone())

    module = model(optim=OptimSettings(qformer_lr=1e-2))
    swa = tools.StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=2)
    trainer(folder, Ends(), swa, max_epochs=3).fit(module, datamodule=data(folder))
    torch.testing.assert_close(module.backbone.query_tokens.detach(), torch.stack(ends[:2]).mean(0))
    assert not torch.equal(ends[0], ends[1])


def test_the_best_checkpoint_is_kept_by_one_of_our_names(folder: Path) -> None:
    best = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "best", "monitor": KEY, "mode": "max", "filename": "b"}}
    main(["fit", "--config", "tiny.yaml", "--trainer.callbacks+", json.dumps(best)])
    assert (folder / "best/b.ckpt").is_file()


def test_a_callback_that_changes_what_trains_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="here `policy` and `also_train` say what trains"):
        trainer(folder, tools.BackboneFinetuning()).fit(model(), datamodule=data(folder))


class Rates(L.Callback):
    """Learning rate and first beta of every optimiser step."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
        self.seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))


def rates(folder: Path, start: Path | None = None, **further: Any) -> list[tuple[float, float]]:
    seen, module = Rates(), model(optim=OptimSettings(qformer="retrieval_released"))
    run = trainer(folder, seen, limit_val_batches=0, **further)
    run.fit(module, datamodule=data(folder), ckpt_path=start)
    steps = run.global_step
    assert run.lr_scheduler_configs[0].scheduler.total == steps
    return seen.seen


@pytest.mark.parametrize(
    ("short", "long"),
    [({"max_epochs": 1}, {"max_epochs": 3}), ({"max_epochs": -1, "max_steps": 4}, {"max_epochs": -1, "max_steps": 9})],
)
def test_a_run_that_goes_on_longer_has_the_rates_of_one_that_was_so_long(
    folder: Path, short: dict[str, int], long: dict[str, int]
) -> None:
    done = len(rates(folder, **short))
    resumed = rates(folder, folder / "kept/last.ckpt", **long)
    assert torch.allclose(torch.tensor(resumed), torch.tensor(rates(folder, **long)[done:]))


@pytest.mark.parametrize(("before", "then", "steps"), [(1, 3, 6 + 2), (3, 1, 2 + 6)])
def test_another_accumulation_changes_the_steps_that_are_left(
    folder: Path, capsys: pytest.CaptureFixture[str], before: int, then: int, steps: int
) -> None:
    rates(folder, max_epochs=2, accumulate_grad_batches=before)
    seen = rates(folder, folder / "kept/last.ckpt", max_epochs=4, accumulate_grad_batches=then)
    assert f"training: {steps} steps, 4 epochs of" in capsys.readouterr().out
    assert len(seen) == steps - 6 // before
    assert seen[-1][0] < seen[0][0] / 100, "the schedule ends with the training"


class Impatient(L.Callback):
    """Presses Ctrl-C."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [4, 1])
def test_ctrl_c_names_the_command_that_goes_on(folder: Path, capsys: pytest.CaptureFixture[str], after: int) -> None:
    stop = {"class_path": "test_toolbox.Impatient", "init_args": {"after": after}}
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "tiny.yaml", "--trainer.callbacks+", json.dumps(stop), "--data.seed=1"])
    signal.signal(signal.SIGINT, before)  # which Lightning has switched off
    assert ended.value.code == 130
    said = capsys.readouterr().err.strip().splitlines()[-1]
    if after == 1:
        assert said.startswith("no checkpoint was written yet, so the same command begins anew")
        return
    _, _, command = said.partition("go on with: ")
    words = shlex.split(command)[1:]
    assert words[-3:] == ["--data.seed=1", "--ckpt_path", "runs/one/checkpoints/last.ckpt"]
    main([word.replace('"after": 4', '"after": -1') for word in words])
    assert "goes on after step 3" in capsys.readouterr().out


def test_without_epochs_to_count_the_bar_counts_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    further: dict[str, Any] = {"max_epochs": -1, "max_steps": 2, "enable_progress_bar": True}
    run = trainer(folder, tools.RichProgressBar(), **further)
    run.fit(model(), datamodule=data(folder))
    assert run.progress_bar_callback._get_train_description(3).strip() == "Epoch 3"  # type: ignore[union-attr]


def test_a_subclass_by_the_command_line_of_a_script_of_one_s_own(folder: Path) -> None:
    """``run=False`` builds, a command runs; another class of model is one argument."""
    from unifashion_pl.cli import UniFashionCLI

    class Half(UniFashionModule):
        def compute_losses(self, batch: Any) -> dict[str, torch.Tensor]:
            return {name: loss / 2 for name, loss in super().compute_losses(batch).items()}

    built = UniFashionCLI(Half, args=["--config", "tiny.yaml", "--model.optim.qformer_lr", "0.5"], run=False)
    assert isinstance(built.model, Half)
    assert built.model.learning_rate == 0.5
    whole, half = (
        UniFashionCLI(kind, args=["fit", "--config", "tiny.yaml", "--trainer.max_steps=1"]) for kind in (UniFashionModule, Half)
    )
    assert float(half.trainer.logged_metrics["train/loss"]) == pytest.approx(
        float(whole.trainer.logged_metrics["train/loss"]) / 2
    )
    alone = {"backbone": CONFIG["model"]["backbone"], "hidden_size": 32, "embed_dim": 16}
    Path("alone.yaml").write_text(yaml.safe_dump({**CONFIG, "model": alone}))
    UniFashionCLI(RetrievalModule, args=["fit", "--config", "alone.yaml", "--trainer.max_steps=1"])
