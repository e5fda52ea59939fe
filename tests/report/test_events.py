"""Runs that TensorBoard alone was told of: their curves are read as those of CSV files are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from unifashion_pl.report.build import build_report
from unifashion_pl.report.events import PATTERN, read_events
from unifashion_pl.report.runfolder import read_run

pytest.importorskip("tensorboard", reason="reads its event files; it is in the extra test")


class Line(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("test/loss", 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: Path, steps: int, ckpt_path: str | None = None) -> None:
    """With both loggers, each in a folder of its own."""
    torch.manual_seed(0)
    loggers = [CSVLogger(folder / "csv", "", ""), TensorBoardLogger(folder / "board", "phase1", "")]
    trainer = L.Trainer(
        max_steps=steps, logger=loggers, log_every_n_steps=1, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", enable_checkpointing=False,
    )  # fmt: skip
    model, data = Line(), torch.utils.data.DataLoader(torch.ones(40, 1))
    trainer.fit(model, data, ckpt_path=ckpt_path)
    trainer.save_checkpoint(folder / "last.ckpt")
    trainer.test(model, data, verbose=False)


def test_a_run_of_event_files_alone_has_the_curves_of_its_csv_file(tmp_path: Path) -> None:
    train(tmp_path, 8)
    board, csv = read_run(tmp_path / "board"), read_run(tmp_path / "csv")
    ((label, columns),) = board.curves
    assert label == "phase1"
    assert set(columns) == {"train/loss"}  # no epoch, no results of the test
    assert len(columns["train/loss"]) == 8
    flat = [number for point in columns["train/loss"] for number in point]
    assert flat == pytest.approx([number for point in csv.curves[0][1]["train/loss"] for number in point])
    page = build_report([tmp_path / "board"], tmp_path / "report.html").read_text()
    assert "Total training loss" in page
    (tmp_path / "board/phase1/metrics.csv").write_text("step,x\n1,2\n")  # of a run with both, the CSV file is read
    assert read_run(tmp_path / "board").curves == [("phase1", {"x": [(1.0, 2.0)]})]


def test_steps_that_a_resumed_run_took_anew_count_once(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for name, steps, factor in (("one", range(6), 1.0), ("two", range(4, 8), 10.0)):
        writer = SummaryWriter(str(tmp_path / name))
        for step in steps:
            writer.add_scalar("loss", factor * step, step)
        writer.add_text("words", "no curve", 1)
        writer.close()
    files = [next((tmp_path / name).glob(PATTERN)) for name in ("one", "two")]
    assert read_events(files) == {"loss": [(0, 0), (1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60), (7, 70)]}
    files[0].write_bytes(files[0].read_bytes()[:-3])  # its last event is still being written
    assert dict(read_events(files[:1]))["loss"][-1] in [(4, 4), (5, 5)]


def test_without_tensorboard_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    with pytest.raises(ValueError, match=r"events.out.tfevents.1 is TensorBoard's.*pip install 'unifashion-pl\[tensorboard\]'"):
        read_run(tmp_path)


def test_files_count_in_the_order_of_their_names_whatever_copying_made_of_their_times(tmp_path: Path) -> None:
    """A run of six steps that went on from its third."""
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    for second, first, changed in ((1_000, 0, 9_000), (2_000, 3, 8_000)):
        own = writer.EventFileWriter(str(tmp_path / f"{second}"))
        for step in range(first, first + 6):
            values = [Summary.Value(tag="loss", simple_value=float(second + step))]
            own.add_event(Event(wall_time=0.0, step=step, summary=Summary(value=values)))
        own.close()
        (file,) = (tmp_path / f"{second}").glob(PATTERN)
        os.utime(file.rename(tmp_path / f"events.out.tfevents.{second}.host.1.0"), (changed, changed))
    expected = [*((float(step), 1_000.0 + step) for step in range(3)), *((float(step), 2_000.0 + step) for step in range(3, 9))]
    assert read_events(sorted(tmp_path.glob(PATTERN))) == {"loss": expected}
