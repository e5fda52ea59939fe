"""Lightning's own tools on this library's model and data: each runs, or says in a sentence why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from data.rawdata import write_fashiongen, write_fashioniq
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities import CombinedLoader
from small import UNET, VAE, pair_batch, small_backbone, triplet_batch
from torch.utils.data import DataLoader
from unifashion_pl.datamodules import FashionGenDataModule, FashionIQDataModule, MixedPairsDataModule, MultiTaskDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.callbacks import LearntAverage
from unifashion_pl.data.samples import by_stream
from unifashion_pl.freezing import part_of
from unifashion_pl.generation import Denoiser, ImageVAE
from unifashion_pl.optim import OptimSettings, parameter_groups
from unifashion_pl.tasks import DiffusionModule, RetrievalModule
from unifashion_pl.weights.checkpoint import load_weights

Steps = list[tuple[tuple[str, ...], float]]


class Seen(L.Callback):
    """Keys and loss of every step."""

    def __init__(self) -> None:
        self.steps: Steps = []

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int) -> None:
        keys = tuple(key for part in by_stream(batch).values() for key in part.keys)  # type: ignore[union-attr]
        self.steps.append((keys, float(outputs["loss"])))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pairs and 24 triplets."""
    folder = tmp_path_factory.mktemp("lightning")
    write_fashiongen(folder / "pairs")
    write_fashioniq(folder / "triplets")
    pairs(folder).prepare_data()
    FashionIQDataModule(folder / "triplets", image_size=32).prepare_data()
    return folder


def pairs(folder: Path, **options: Any) -> FashionGenDataModule:
    return FashionGenDataModule(folder / "pairs", **{"image_size": 32, "batch_size": 6, **options})


def model(**options: Any) -> UniFashionModule:
    torch.manual_seed(0)
    backbone = small_backbone(dropout=0.1)
    return UniFashionModule(backbone, RetrievalModule(hidden_size=32, embed_dim=16), policy="phase1_retrieval", **options)


def trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    L.seed_everything(0, verbose=False)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    length: dict[str, Any] = {"num_sanity_val_steps": 0, "limit_val_batches": 0, "enable_checkpointing": False}
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{**quiet, **length, "log_every_n_steps": 1, **options},
    )


def test_learning_rates_are_logged_by_group_also_after_a_resume(shards: Path, tmp_path: Path) -> None:
    for steps, start in ((2, None), (4, tmp_path / "last.ckpt")):
        monitor, kept = LearningRateMonitor(), ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
        options: dict[str, Any] = {"logger": CSVLogger(tmp_path), "enable_checkpointing": True, "max_steps": steps}
        trainer(tmp_path, monitor, kept, **options).fit(model(), datamodule=pairs(shards), ckpt_path=start)
        assert set(monitor.lrs) == {"lr-AdamW/qformer", "lr-AdamW/qformer/no_decay"}


@pytest.mark.parametrize("overfit", [1, 0.5])
def test_overfitting_sees_the_same_batches_in_every_epoch(shards: Path, tmp_path: Path, overfit: float) -> None:
    seen = Seen()
    data = MixedPairsDataModule(
        [pairs(shards, batch_size=4, eval_batch_size=2), pairs(shards, batch_size=2, eval_batch_size=2)]
    )
    trainer(tmp_path, seen, overfit_batches=overfit, max_epochs=3).fit(model(), datamodule=data)
    size = 1 if overfit == 1 else 9  # of 18 batches
    epochs = [[keys for keys, _ in seen.steps[start : start + size]] for start in range(0, len(seen.steps), size)]
    assert len(epochs) == 3
    assert epochs[0] == epochs[1] == epochs[2]
    assert len({*epochs[0]}) == size


@pytest.mark.parametrize("length", [{"max_epochs": 2}, {"max_steps": 10, "max_epochs": -1}])
def test_a_finder_s_trial_changes_nothing_of_the_training_that_follows(
    shards: Path, tmp_path: Path, length: dict[str, int]
) -> None:
    runs: list[Steps] = []
    for finders in ([], [LearningRateFinder(num_training_steps=4, update_attr=False, early_stop_threshold=None)]):
        seen = Seen()
        optim = OptimSettings(qformer="retrieval_constant")
        trainer(tmp_path, *finders, seen, **length).fit(model(optim=optim), datamodule=pairs(shards))
        runs.append(seen.steps)
    assert len(runs[0]) in (10, 12)
    assert runs[0] == runs[1]


def test_loaders_that_were_given_go_back_to_where_they_were_before_a_trial(shards: Path, tmp_path: Path) -> None:
    runs: list[Steps] = []
    for finders in ([], [LearningRateFinder(num_training_steps=4, update_attr=False, early_stop_threshold=None)]):
        seen = Seen()
        trainer(tmp_path, *finders, seen, max_epochs=1).fit(model(), pairs(shards).train_loader())
        runs.append(seen.steps)
    assert runs[0] == runs[1]


def test_a_resume_that_would_forget_its_place_is_refused(shards: Path, tmp_path: Path) -> None:
    kept = ModelCheckpoint(tmp_path, "four", every_n_train_steps=4)
    trainer(tmp_path, kept, enable_checkpointing=True, max_steps=4).fit(model(), datamodule=pairs(shards))
    finder = LearningRateFinder(num_training_steps=3, update_attr=False)
    with pytest.raises(ValueError, match="cannot resume with a LearningRateFinder"):
        trainer(tmp_path, finder, max_steps=9).fit(model(), datamodule=pairs(shards), ckpt_path=tmp_path / "four.ckpt")


class FinderOfEpochs(LearningRateFinder):
    """As Lightning documents it: a trial at the beginning of later epochs."""

    def on_fit_start(self, *_: Any) -> None:
        return

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


def test_a_trial_between_two_epochs(shards: Path, tmp_path: Path) -> None:
    runs: list[Steps] = []
    for finders in ([], [FinderOfEpochs(num_training_steps=4, update_attr=False, early_stop_threshold=None)]):
        seen = Seen()
        trainer(tmp_path, *finders, seen, max_epochs=2).fit(model(), datamodule=pairs(shards))
        runs.append(seen.steps)
    assert [keys for keys, _ in runs[0]] == [keys for keys, _ in runs[1]]


def test_the_learning_rate_that_was_found_is_trained_with(shards: Path, tmp_path: Path) -> None:
    module, finder = model(), LearningRateFinder(num_training_steps=20, early_stop_threshold=None)
    run = trainer(tmp_path, finder, max_epochs=4)
    run.fit(module, datamodule=pairs(shards))
    assert finder.optimal_lr is not None
    assert module.learning_rate == module.optim.preset("diffusion").lr == finder.optimal_lr.suggestion()
    assert run.lr_scheduler_configs[0].scheduler.base_lrs == [module.learning_rate] * 2
    found = Tuner(trainer(tmp_path, max_epochs=4)).lr_find(module, datamodule=pairs(shards), num_training=20)
    assert found is not None
    assert parameter_groups(module, module.optim)[0][0]["lr"] == found.suggestion()


@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_the_batch_size_that_was_found_was_tried_and_is_trained_with(
    shards: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """36 pairs cannot fill batches of 64, at which doubling stops."""
    tried: list[int] = []
    step = UniFashionModule.training_step
    spy = lambda self, batch, index: (tried.append(len(batch["pairs"])), step(self, batch, index))[1]  # noqa: E731
    monkeypatch.setattr(UniFashionModule, "training_step", spy)
    data, seen = pairs(shards), Seen()
    finder = BatchSizeFinder(mode=mode, steps_per_trial=1, init_val=2, margin=0.0)
    trainer(tmp_path, finder, seen, max_epochs=1).fit(model(), datamodule=data)
    assert finder.optimal_batch_size == data.batch_size == 32
    assert tried == [2, 4, 8, 16, 32, 32]
    assert [len(keys) for keys, _ in seen.steps] == [32]


def test_streams_keep_their_shares_of_a_batch_that_is_resized(shards: Path) -> None:
    mixed = MixedPairsDataModule([pairs(shards, batch_size=8), pairs(shards, batch_size=4)])
    data = MultiTaskDataModule(mixed, FashionIQDataModule(shards / "triplets", batch_size=4, image_size=32))
    assert data.batch_size == 16
    data.batch_size = 4
    assert [part.batch_size for part in (*mixed.parts, data)] == [2, 1, 4]
    data.batch_size = 32
    assert [part.batch_size for part in (*mixed.parts, data)] == [16, 8, 32]
    assert data.train_dataloader()._dataset_length() == 33  # 16 of 36, 8 of 36, 8 of 24
    data.batch_size = 64
    assert data.train_dataloader()._dataset_length() == 64  # 32 of 36
    with pytest.raises(ValueError, match="batch_size is 1, but a batch mixes 2 datasets"):
        data.batch_size = 1


def test_a_training_without_a_length(shards: Path, tmp_path: Path) -> None:
    endless: dict[str, Any] = {"max_epochs": -1, "max_time": {"seconds": 1}}
    with pytest.raises(ValueError, match="this one has no end: set max_steps or max_epochs"):
        trainer(tmp_path, **endless).fit(model(), datamodule=pairs(shards))
    seen = Seen()
    module = model(optim=OptimSettings(qformer="retrieval_constant"))
    trainer(tmp_path, seen, **endless).fit(module, datamodule=pairs(shards))
    assert len(seen.steps) > 1


def plain(*batches: Any) -> DataLoader[Any]:
    return DataLoader(list(batches), batch_size=None)


def test_plain_loaders_of_batches(tmp_path: Path) -> None:
    """Without a DataModule: one loader, several, with workers, for a head alone, and validation."""
    many = DataLoader([pair_batch(), pair_batch()], batch_size=None, num_workers=1)
    both = CombinedLoader({"pairs": plain(pair_batch()), "triplets": plain(triplet_batch())})
    for loader, steps in ((plain(pair_batch(), triplet_batch()), 2), (many, 2), (both, 1), ([plain(pair_batch())] * 2, 1)):
        seen = Seen()
        trainer(tmp_path, seen, max_epochs=1).fit(model(), loader)
        assert len(seen.steps) == steps
    trainer(tmp_path, max_epochs=1, limit_val_batches=1.0).fit(
        model(), plain(pair_batch()), plain(pair_batch(dataset="own/validation"))
    )
    trainer(tmp_path, max_epochs=1).fit(
        RetrievalModule(backbone=small_backbone(), hidden_size=32, embed_dim=16), plain(pair_batch())
    )


@pytest.mark.parametrize(
    ("batch", "found"),
    [(torch.zeros(2, 3), "Tensor"), ({"images": torch.zeros(2)}, "Tensor as 'images'"), ([pair_batch(), 3], "int")],
)
def test_other_batches_are_told_what_they_lack(tmp_path: Path, batch: Any, found: str) -> None:
    with pytest.raises(TypeError, match=f"takes a PairBatch.*the loader gave {found}"):
        trainer(tmp_path, max_epochs=1).fit(model(), plain(batch))


def painting(**options: Any) -> UniFashionModule:
    torch.manual_seed(0)
    denoiser, vae = Denoiser(config=UNET), ImageVAE(config=VAE)
    head = DiffusionModule(denoiser=denoiser, vae=vae, context="tsa", query_width=32, size=(32, 32), max_samples=2)
    retrieval = RetrievalModule(hidden_size=32, embed_dim=16)
    return UniFashionModule(small_backbone(), retrieval, diffusion=head, policy="phase2_composed", **options)


def compiled(module: UniFashionModule) -> UniFashionModule:
    """Two parts compiled, as documented for speed; ``eager`` needs no compiler."""
    module.backbone = torch.compile(module.backbone, backend="eager")  # type: ignore[assignment]
    denoiser = module.diffusion_head.denoiser  # type: ignore[union-attr]
    denoiser.unet = torch.compile(denoiser.unet, backend="eager")
    return module


@pytest.mark.parametrize("averaged", [False, True])
def test_checkpoints_of_compiled_parts_load_everywhere(tmp_path: Path, averaged: bool) -> None:
    batch = pair_batch(pixels=pair_batch().pixels[..., :32, :32])  # type: ignore[index]
    kept = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    callbacks = [kept, LearntAverage(0.5)] if averaged else [kept]
    first = compiled(painting())
    run = trainer(tmp_path, *callbacks, enable_checkpointing=True, max_epochs=2)
    run.fit(first, plain(batch))
    names = {part_of(name) for name, _ in first.named_parameters()}
    assert names == {part_of(name) for name, _ in painting().named_parameters()}
    assert [g["name"] for g in run.optimizers[0].param_groups] == [
        g["name"] for g in parameter_groups(painting(), first.optim)[0]
    ]
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert set(state) == set(painting().state_dict())
    other = painting()
    load_weights(other, str(tmp_path / "last.ckpt"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
    for again in (painting(), compiled(painting())):
        seen = Seen()
        callbacks = [LearntAverage(0.5)] if averaged else []
        trainer(tmp_path, seen, *callbacks, max_epochs=3).fit(again, plain(batch), ckpt_path=tmp_path / "last.ckpt")
        assert len(seen.steps) == 1


def in_place_by(backend: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Modules are compiled by ``backend`` from now on; gives the classes of those that are."""
    traced: list[str] = []
    compile_in_place = torch.nn.Module.compile

    def compile_by(module: torch.nn.Module) -> None:
        traced.append(type(module).__name__)
        compile_in_place(module, backend=backend)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_by)
    return traced


@pytest.mark.parametrize("build", [model, pytest.param(painting, marks=pytest.mark.slow)])
def test_a_step_of_compiled_blocks_is_the_step_and_its_checkpoint_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[..., UniFashionModule]
) -> None:
    """``eager`` traces the blocks as the default compiler does, and needs none. Plain steps of gradients, so that these compare."""
    optim = OptimSettings(qformer="retrieval_constant", qformer_lr=0.1, diffusion_lr=0.1, optimizer=torch.optim.SGD)
    batch = pair_batch(pixels=pair_batch().pixels[..., :32, :32])  # type: ignore[index]
    traced, states = in_place_by("eager", monkeypatch), []
    for compile_blocks in (False, True):
        torch.manual_seed(0)
        module = build(compile_blocks=compile_blocks, optim=optim)
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        start = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        kept = ModelCheckpoint(tmp_path, f"compiled-{compile_blocks}", enable_version_counter=False)
        trainer(tmp_path, kept, enable_checkpointing=True, max_epochs=1).fit(module, plain(batch))
        assert bool(traced) == compile_blocks
        states.append(module.state_dict())
    assert any(name.endswith("QFormerLayer") for name in traced)
    eager, compiled_ = states
    assert eager.keys() == compiled_.keys() == start.keys()
    moved = max(float((tensor - start[name]).abs().max()) for name, tensor in eager.items() if tensor.is_floating_point())
    assert moved > 1e-3
    for name, tensor in eager.items():
        torch.testing.assert_close(compiled_[name], tensor, atol=1e-6, rtol=1e-5)
    other = build()
    load_weights(other, str(tmp_path / "compiled-True.ckpt"))
    assert all(torch.equal(tensor, compiled_[name]) for name, tensor in other.state_dict().items())


def test_products_of_float32_are_as_precise_as_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    for products in (None, "high"):
        trainer(tmp_path, max_steps=1).fit(model(float32_products=products), plain(pair_batch()))
    assert asked == ["high"]


def test_checkpoints_with_compiled_names_load_too(tmp_path: Path) -> None:
    state = {f"{n.replace('backbone.', 'backbone._orig_mod.', 1)}": t for n, t in model().state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "old.ckpt")
    module = model()
    load_weights(module, str(tmp_path / "old.ckpt"))
    module.load_state_dict(state)


def test_a_module_s_wrong_names_are_answered_with_the_known_ones() -> None:
    for options, message in (
        ({"policy": "phase1"}, r"unknown freeze policy 'phase1' \(did you mean phase1_llm or .*known are phase1_retrieval"),
        ({"also_train": ["visoin"]}, r"also_train: unknown part 'visoin' \(did you mean vision"),
        (
            {"leave_out": ["clip"]},
            r"leave_out: unknown part with published weights 'clip'.*known are vision, text_tower, llm, vae, clip_text",
        ),
        ({"loss_weights": {"itc": 1.0}}, r"loss_weights: unknown loss family 'itc' \(did you mean itg\?\)"),
    ):
        with pytest.raises(ValueError, match=message):
            UniFashionModule(
                small_backbone(), RetrievalModule(hidden_size=32, embed_dim=16), **{"policy": "phase1_retrieval", **options}
            )  # type: ignore[arg-type]
