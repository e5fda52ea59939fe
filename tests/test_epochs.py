"""What is said before the first step and while training: steps, passes over each dataset, what an epoch is, the time that is left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from data.rawdata import write_fashiongen, write_fashioniq
from lightning.pytorch.callbacks import ModelCheckpoint
from small import small_backbone
from unifashion_pl.datamodules import FashionGenDataModule, FashionIQDataModule, MixedPairsDataModule, MultiTaskDataModule
from unifashion_pl.datamodules.base import StreamsLoader

from unifashion_pl import UniFashionModule, epochs
from unifashion_pl.data.mixing import MixedPairLoader
from unifashion_pl.data.stream import TrainLoader
from unifashion_pl.epochs import duration, outlook
from unifashion_pl.tasks import RetrievalModule


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pairs and 23 triplets to train on, with shards; not to be changed."""
    folder = tmp_path_factory.mktemp("epochs")
    write_fashiongen(folder / "pairs")
    write_fashioniq(folder / "triplets")
    data(folder).prepare_data()
    return folder


def data(folder: Path, epoch_of: str | None = "triplets", **mixed: Any) -> MultiTaskDataModule:
    """9 steps of pairs, 5 of triplets."""
    pairs = FashionGenDataModule(folder / "pairs", batch_size=4, image_size=32)
    other = FashionGenDataModule(folder / "pairs", batch_size=6, image_size=32)
    triplets = FashionIQDataModule(folder / "triplets", batch_size=4, image_size=32)
    return MultiTaskDataModule(MixedPairsDataModule([pairs, other]) if mixed else pairs, triplets, epoch_of=epoch_of)


def fit(loaders: L.LightningDataModule, out: Path, ckpt_path: Path | None = None, **options: Any) -> L.Trainer:
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        limit_val_batches=0,
        default_root_dir=out,
        **{
            "callbacks": [ModelCheckpoint(out, filename="last", enable_version_counter=False, every_n_train_steps=1)],
            **options,
        },
    )
    module = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=16))
    trainer.fit(module, datamodule=loaders, ckpt_path=ckpt_path)
    return trainer


def test_a_training_says_how_long_it_is_and_a_resumed_one_where_it_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(data(folder), tmp_path, max_steps=7, max_epochs=3)
    table = """  stream    dataset     samples  a step  passes an epoch  in all
  pairs     fashiongen       36       4            0.556  {:>6}
  triplets  fashioniq        23       4                1  {:>6}
"""
    said = capsys.readouterr().out
    assert "training: 7 steps, 1.4 epochs of 5 steps; an epoch is one pass over triplets\n" in said
    assert table.format(0.778, 1.4) in said
    assert "goes on" not in said
    resumed = fit(data(folder), tmp_path, tmp_path / "last.ckpt", max_epochs=3, max_steps=-1)
    said = capsys.readouterr().out
    assert "training: 15 steps, 3 epochs of 5 steps; an epoch is one pass over triplets\n" in said
    assert table.format(1.67, 3) in said
    assert "  goes on after step 7, 2 batches into epoch 2\n" in said
    assert (resumed.global_step, resumed.current_epoch) == (15, 3)
    for other in (None, "pairs", "fashiongen"):
        with pytest.raises(
            ValueError, match=r"cannot resume: an epoch was one of triplets, now it is one of pairs. Use the old"
        ):
            fit(data(folder, other), tmp_path, tmp_path / "last.ckpt", max_epochs=3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, ["9 steps, 3 epochs of 3 steps", "one pass over triplets", "8 1 3", "8 0.556 1.67"]),
        ({"max_epochs": 2, "limit_train_batches": 2}, ["4 steps, 2 epochs of 2 steps", "0.4 passes over triplets", "4 0.4 0.8"]),
        ({"max_steps": 1, "max_epochs": -1}, ["1 steps, 0.2 epochs of 5 steps", "4 1 0.2", "4 0.556 0.111"]),
    ],
)  # fmt: skip
def test_steps_are_those_of_the_optimiser(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], expected: list[str]
) -> None:
    trainer = fit(data(folder), tmp_path, callbacks=[], enable_checkpointing=False, **options)
    said = " ".join(capsys.readouterr().out.split())
    assert f"training: {trainer.global_step} steps" in said
    assert [text for text in expected if text not in said] == []


def test_without_batches_nothing_is_trained(folder: Path, tmp_path: Path) -> None:
    trainer = fit(data(folder), tmp_path, callbacks=[], enable_checkpointing=False, max_epochs=1, limit_train_batches=0)
    assert trainer.global_step == 0


def test_the_dataset_of_a_mix_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(data(folder, "pairs", mixed=True), tmp_path, callbacks=[], enable_checkpointing=False, max_steps=1)
    said = capsys.readouterr().out
    assert "epochs of 9 steps; an epoch is one pass over pairs/fashiongen\n" in said
    assert [line.split()[-2] for line in said.splitlines() if " fashion" in line][-3:] == ["1", "1.5", "1.8"]


def test_the_end_is_foretold_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 700))
    monkeypatch.setattr(epochs.time, "monotonic", lambda: float(next(clock)))
    fit(data(folder), tmp_path, callbacks=[], enable_checkpointing=False, max_steps=5)
    said = [line for line in capsys.readouterr().out.splitlines() if "left" in line]
    assert said == ["700.00 s a step: about 23 min left, validation not counted"]
    assert (duration(50), duration(3700), duration(200_000)) == ("1 min", "1 h 02 min", "55 h 33 min")


def sized(name: str, samples: int, batch_size: int) -> TrainLoader[Any]:
    """A stream of so many samples, none of which is ever read."""
    source: Any = SimpleNamespace(
        dataset=f"{name}/train", kind="any", split="train", fields=[], keys=range(samples), hash="", features="", latents=""
    )
    return TrainLoader(source, SimpleNamespace(needs=set()), batch_size=batch_size)  # type: ignore[arg-type]


def lasting(loaders: StreamsLoader, max_epochs: int) -> Any:
    """As much of a trainer as the table asks for."""
    iter(loaders)
    progress = SimpleNamespace(total=SimpleNamespace(processed=0))
    loop = SimpleNamespace(_combined_loader=loaders, epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(
        train_dataloader=loaders.iterables,
        fit_loop=loop,
        num_training_batches=len(loaders),
        accumulate_grad_batches=1,
        estimated_stepping_batches=max_epochs * len(loaders),
        max_epochs=max_epochs,
        max_steps=-1,
        global_step=0,
    )


def test_the_papers_phases_are_as_long_as_it_says() -> None:
    """Table 6's sizes in the batches of paper.yaml: 15 epochs of 140 steps; an epoch of phase 1 shows FashionGen once."""
    names = ["triplets", "fashiongen"]
    streams = {"pairs": MixedPairLoader([sized("fashiongen", 260_500, 128)]), "triplets": sized("fashioniq", 18_000, 128)}
    table = outlook(lasting(StreamsLoader(streams, names), 15))
    assert table.splitlines()[0] == "training: 2,100 steps, 15 epochs of 140 steps; an epoch is one pass over triplets"
    shown = (Path(__file__).parents[1] / "docs/tutorials/training.md").read_text("utf-8")
    assert "\n".join(f"    {line}" for line in table.splitlines()) in shown
    mix = [sized("fashiongen", 260_500, 65), sized("fashioniq-cap", 45_429, 42), sized("fashion200k", 172_000, 21)]
    first, _, *rows = outlook(lasting(StreamsLoader({"pairs": MixedPairLoader(mix)}, names), 10)).splitlines()
    assert first == "training: 40,070 steps, 10 epochs of 4,007 steps; an epoch is one pass over pairs/fashiongen"
    assert [row.split()[1::4] for row in rows] == [["fashiongen", "10"], ["fashioniq_cap", "37.1"], ["fashion200k", "4.89"]]


def test_an_epoch_without_an_end_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    """As where a stream stands beside an endless loader of somebody else."""
    trainer = lasting(StreamsLoader({"triplets": sized("fashioniq", 18_000, 128)}), 1)
    trainer.is_global_zero = True
    epochs.Outlook().on_train_start(trainer, L.LightningModule())
    assert "training: 140 steps" in capsys.readouterr().out
    trainer.num_training_batches = float("inf")
    epochs.Outlook().on_train_start(trainer, L.LightningModule())
    assert capsys.readouterr().out == ""


class PulledPlug(L.Callback):
    """Ends a run before its step ``step``."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("pulled")


@pytest.mark.parametrize("stream", ["triplets", "alone"])
def test_limited_epochs_are_equally_long_and_so_is_one_that_is_resumed(folder: Path, tmp_path: Path, stream: str) -> None:
    """3 of the 5 steps of a pass (of 4 where pairs are alone): the second epoch begins in the middle of one."""

    def loaders() -> L.LightningDataModule:
        return data(folder) if stream == "triplets" else FashionGenDataModule(folder / "pairs", batch_size=8, image_size=32)

    options = {"max_epochs": 3, "limit_train_batches": 3}
    whole = fit(loaders(), tmp_path / "whole", **options)
    assert (whole.global_step, whole.current_epoch) == (9, 3)
    saved = ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False, every_n_train_steps=1)
    with pytest.raises(RuntimeError, match="pulled"):
        fit(loaders(), tmp_path, callbacks=[saved, PulledPlug(4)], **options)
    resumed = fit(loaders(), tmp_path, tmp_path / "last.ckpt", **options)
    assert (resumed.global_step, resumed.current_epoch) == (9, 3)
    found = resumed.lightning_module.state_dict()
    for name, tensor in whole.lightning_module.state_dict().items():
        assert torch.equal(tensor, found[name]), name
