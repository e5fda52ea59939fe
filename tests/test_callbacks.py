"""Before the first step: sentences about data that do not fit. While training: damaged samples, logged and named at the end. And
cached vision features through the DataModules, compared with the model that trains."""

from __future__ import annotations

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from data.rawdata import write_catalogue, write_fashiongen, write_fashioniq
from lightning.pytorch.callbacks import ModelCheckpoint
from recording import Recorder, recorded
from small import UNET, VAE, small_backbone
from unifashion_pl.datamodules import CatalogueDataModule, FashionGenDataModule, FashionIQDataModule, MultiTaskDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.cli import main
from unifashion_pl.data.features import MIRRORED_FIELDS, FeatureSource
from unifashion_pl.data.make_features import shard_folders, write_features
from unifashion_pl.data.reader import MIRRORED, ShardSource
from unifashion_pl.data.samples import QueryBatch
from unifashion_pl.data.texts import EVALUATION, Draw
from unifashion_pl.evaluation import Evaluator
from unifashion_pl.generation import Denoiser, ImageVAE
from unifashion_pl.metrics.lines import read_lines
from unifashion_pl.tasks import DiffusionModule, RetrievalModule

ALL: dict[str, Any] = {"image_size": 32, "pixel_size": (32, 32), "batch_size": 6}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pairs and 24 triplets with shards; may be spoilt."""
    folder = tmp_path_factory.mktemp("callbacks")
    write_fashiongen(folder / "pairs")
    write_fashioniq(folder / "triplets")
    data(folder).prepare_data()
    return folder


def data(folder: Path, **options: Any) -> MultiTaskDataModule:
    common = {**ALL, **options}
    triplets = FashionIQDataModule(folder / "triplets", **common)
    return MultiTaskDataModule(FashionGenDataModule(folder / "pairs", **common), triplets)


def model(policy: str = "phase2_composed") -> UniFashionModule:
    """Retrieval and diffusion heads; phase 2 freezes the tower."""
    backbone = small_backbone()
    diffusion = DiffusionModule(
        denoiser=Denoiser(config=UNET), vae=ImageVAE(config=VAE), context="tsa", query_width=32, size=(32, 32), max_samples=2
    )
    return UniFashionModule(backbone, RetrievalModule(hidden_size=32, embed_dim=16), diffusion=diffusion, policy=policy)


def fit(module: L.LightningModule, loaders: L.LightningDataModule, out: Path, steps: int = 2, **options: Any) -> L.Trainer:
    L.seed_everything(0, verbose=False)
    quiet: dict[str, Any] = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "log_every_n_steps": 1,
    }
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        num_sanity_val_steps=0,
        default_root_dir=out,
        **{**quiet, "callbacks": [Recorder(str(out / "steps")), ModelCheckpoint(out)], "limit_val_batches": 0, **options},
    )
    trainer.fit(module, datamodule=loaders)
    return trainer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"pixel_size": None},
            r"stream pairs: the diffusion head paints \(32, 32\).*pixels are None: set pixel_size of the data to \[32, 32\]",
        ),
        ({"pixel_size": (16, 12)}, r"pixels are \(16, 12\): set pixel_size"),
        (
            {"image_size": 24},
            r"stream pairs: images are 24 × 24, the vision tower takes 32 × 32: set image_size of the data to 32",
        ),
        ({"batch_size": 40}, r"36 samples for training, but one batch takes 1 × 40"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused_before_the_first_step(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(model(), data(folder, **change), tmp_path)
    assert not (tmp_path / "steps").exists()


def test_a_validation_that_cannot_begin_is_known_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    loaders = data(folder)
    shutil.rmtree(folder / "triplets/shards/queries-val")
    loaders.prepare_data = lambda: None  # type: ignore[method-assign]
    with pytest.raises(FileNotFoundError, match=r"no index\.json in .*queries-val"):
        fit(model(), loaders, tmp_path, limit_val_batches=1.0, check_val_every_n_epoch=2)
    assert not (tmp_path / "steps").exists()


def test_workers_without_work_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(model(), data(folder, num_workers=5), tmp_path, steps=1)
    assert "fashioniq/train: an epoch has 3 batches on each rank" in capsys.readouterr().out


def test_no_worker_outlives_the_run(folder: Path, tmp_path: Path) -> None:
    fit(model(), data(folder, num_workers=2), tmp_path, steps=2, limit_val_batches=1, check_val_every_n_epoch=1)
    assert not multiprocessing.active_children()
    with pytest.raises(RuntimeError, match="stopped here"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(UniFashionModule, "training_step", interrupted)
        fit(model(), data(folder, num_workers=2), tmp_path, steps=2)
    assert not multiprocessing.active_children()


def interrupted(*_: object) -> None:
    assert multiprocessing.active_children()
    raise RuntimeError("stopped here")


def spoil(shards: Path, *numbers: int) -> list[str]:
    """Flip a bit of some samples; their keys."""
    source = ShardSource(shards)
    (shard,) = source.index.shards
    with open(shards / shard.name, "r+b") as file:
        for number in numbers:
            file.seek(shard.offsets[number] + 700)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))
    return [source.keys[number] for number in numbers]


def test_damaged_samples_are_logged_and_named_at_the_end(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = spoil(folder / "pairs/shards/pairs-train", 3, 11)
    with pytest.warns(UserWarning, match="damaged sample 2 of at most 2"):
        trainer = fit(model(), data(folder, max_bad=2, num_workers=2), tmp_path, steps=12)
    assert trainer.logged_metrics["train/damaged_samples"] == 2
    out = capsys.readouterr().out
    assert "rank 0 replaced 2 damaged samples" in out
    assert all(f"  {key} (sample " in out for key in bad)
    steps = recorded(tmp_path / "steps").values()
    assert not {key for step in steps for key in step["keys"]["pairs"]} & set(bad)
    assert {len(step["keys"]["pairs"]) for step in steps} == {6}
    with (
        pytest.raises(RuntimeError, match="2 damaged samples, allowed are max_bad=1"),
        pytest.warns(UserWarning, match="damaged"),
    ):
        fit(model(), data(folder, max_bad=1, num_workers=2), tmp_path, steps=12)


def test_a_clean_run_says_nothing_about_damage(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(model(), data(folder), tmp_path)
    assert "train/damaged_samples" not in trainer.logged_metrics
    assert "damaged" not in capsys.readouterr().out


# cached vision features


def with_features(folder: Path, module: UniFashionModule, dtype: Any = "fp32") -> None:
    for shards in shard_folders(folder):
        write_features(shards, module.backbone.vision, dtype=dtype, progress=False)


def test_phase_2_on_features_learns_as_on_pixels(folder: Path, tmp_path: Path) -> None:
    """Six steps of both streams and both heads; the optimiser carries every difference on."""
    with_features(folder, model())
    runs = {}
    for name, features in (("pixels", False), ("features", True)):
        trainer = fit(model(), data(folder, features=features), tmp_path / name, steps=6)
        assert isinstance(trainer.train_dataloader["pairs"].source, FeatureSource) is features
        runs[name] = recorded(tmp_path / name / "steps")
    for place, line in runs["pixels"].items():
        other = runs["features"][place]
        assert (other["keys"], other["texts"]) == (line["keys"], line["texts"])
        for loss, value in line["losses"].items():
            assert float.fromhex(other["losses"][loss]) == pytest.approx(float.fromhex(value), rel=1e-4), (place, loss)


def test_a_test_on_features_finds_what_one_on_pixels_finds_and_shows_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    """Ranks, scores, halves of queries, rewritten words, painted pictures; the tower runs for the grey picture, and for the
    comparison with what was kept: a blank picture for the shape, and one image of each of three folders."""
    module = UniFashionModule(
        model().backbone,
        RetrievalModule(hidden_size=32, embed_dim=16),
        policy="phase2_composed",
        evaluator=Evaluator(robustness=True, composed_ks=(1, 3), pair_ks=(1, 3)),
    ).eval()
    with_features(folder, module)
    passed, forward = [], module.backbone.vision.forward
    module.backbone.vision.forward = lambda pictures: passed.append(len(pictures)) or forward(pictures)  # type: ignore[method-assign]
    found = {}
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    for name, features in (("pixels", False), ("features", True)):
        passed.clear()
        trainer = L.Trainer(default_root_dir=tmp_path / name, **quiet)
        values = trainer.test(module, datamodule=data(folder, features=features, eval_batch_size=7), verbose=False)
        lines = [
            line
            for kind in ("composed", "rewritten", "retrieval")
            for line in read_lines(tmp_path / name / f"test/predictions/{kind}.jsonl")
        ]
        pictures = {path.name: path.read_bytes() for path in (tmp_path / name / "test/images").iterdir()}
        found[name] = values, lines, pictures, sum(passed)
    assert found["pixels"][3] == 36 + 39 + 1
    assert found["features"][3] == 3 * 2 + 1
    for ours, theirs in zip(found["pixels"][1], found["features"][1], strict=True):
        assert {k: v for k, v in ours.items() if k not in ("top", "score", "rewritten_score")} == {
            k: v for k, v in theirs.items() if k not in ("top", "score", "rewritten_score")
        }
    assert len(found["pixels"][1]) > 100
    ours, theirs = ({k: v for part in found[name][0] for k, v in part.items()} for name in found)
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert found["pixels"][2] == found["features"][2] != {}


def test_a_validation_reads_no_pictures_where_there_are_features(folder: Path, tmp_path: Path) -> None:
    with_features(folder, model())
    loaders = data(folder, features=True, pixel_size=None).val_dataloader()
    assert len(loaders) == 3
    for loader in loaders:
        for batch in loader:
            assert batch.pictures is None
            assert (batch.references if isinstance(batch, QueryBatch) else batch.images).ndim == 3


def test_evaluation_is_refused_without_features_and_on_those_of_another_tower(folder: Path, tmp_path: Path) -> None:
    trainer = L.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=tmp_path)
    with pytest.raises(
        FileNotFoundError, match="no vision features in .*pairs-validation/features: make them with .unifashion data feat"
    ):
        trainer.validate(model(), datamodule=data(folder, features=True))
    with_features(folder, model())
    other = model()
    with torch.no_grad():
        next(other.backbone.vision.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="pairs-validation/features holds the features of another vision tower.*weights was"):
        trainer.validate(other, datamodule=data(folder, features=True))


def test_training_is_refused_on_features_of_another_tower_and_where_the_tower_learns(folder: Path, tmp_path: Path) -> None:
    with_features(folder, model())
    other = model()
    with torch.no_grad():
        next(other.backbone.vision.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="another vision tower or transform: weights was"):
        fit(other, data(folder, features=True), tmp_path)
    learning = UniFashionModule(
        small_backbone(), RetrievalModule(hidden_size=32, embed_dim=16), policy="phase2_composed", also_train=["vision"]
    )
    with pytest.raises(ValueError, match="the vision tower is to be trained"):
        fit(learning, data(folder, features=True), tmp_path)


def test_features_that_are_not_there_or_cannot_be_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no vision features in .*pairs-train/features: make them with"):
        data(folder, features=True).train_dataloader()
    root = write_catalogue(tmp_path / "shop")
    own = CatalogueDataModule(root / "catalogue.csv", root, features=True, image_size=32)
    with pytest.raises(ValueError, match="read from raw files, and features lie beside shards"):
        own.train_loader()
    own = CatalogueDataModule(
        root / "catalogue.csv", root, tmp_path / "shards", features=True, image_size=32, flip=0.5, batch_size=4
    )
    own.prepare_data()
    tower = small_backbone().vision
    write_features(tmp_path / "shards/pairs-train", tower, progress=False)
    with pytest.raises(ValueError, match="no features of mirrored ones: make them with --mirrored"):
        own.train_loader()
    write_features(tmp_path / "shards/pairs-train", tower, progress=False, fields=MIRRORED_FIELDS)
    assert len(own.train_loader().source.keys) == 16
    raw = FeatureSource(ShardSource(tmp_path / "shards/pairs-train"), tmp_path / "shards/pairs-train/features").read(3)
    always = replace(own.assembler(), flip=1.0)
    assert torch.equal(always.sample(raw, Draw(0, 1), "").images[0], raw.features[f"image{MIRRORED}"])
    assert torch.equal(always.sample(raw, EVALUATION, "").images[0], raw.features["image"])


def test_the_command_makes_what_the_datamodule_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped tiny model's tower, all dataset folders below one, of training and evaluation."""
    write_fashioniq(tmp_path / "raw", train=2, val=2)
    FashionIQDataModule(tmp_path / "raw", tmp_path / "shards/iq").prepare_data()
    main(
        [
            "data",
            "features",
            "--shards",
            str(tmp_path / "shards"),
            "--dtype",
            "fp32",
            "--out",
            str(tmp_path / "kept"),
            "--device",
            "cpu",
        ]
    )
    out = capsys.readouterr().out
    assert str(tmp_path / "kept/iq/gallery-val/index.json") in out
    assert str(tmp_path / "kept/iq/triplets-train/index.json") in out
    tower = UniFashionModule.from_pretrained("tiny").backbone.vision
    for features in (tmp_path / "kept/iq", tmp_path / "kept"):
        options: dict[str, Any] = {"image_size": 64, "batch_size": 2, "features": features}
        batch = next(iter(FashionIQDataModule(shards=tmp_path / "shards/iq", **options).train_loader()))
        assert batch.references.shape[::2] == (2, tower.width)
    with pytest.raises(SystemExit) as stopped:
        main(["data", "features", "--shards", str(tmp_path / "raw")])
    assert stopped.value.code == 2
    assert "no shards in" in capsys.readouterr().err
