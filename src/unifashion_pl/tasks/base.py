"""The training step over named losses, and what the three heads have in common: losses without logging."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning as L
import torch
from torch import Tensor
from typing_extensions import Self

from unifashion_pl.backbone import Encoding, QFormerBackbone
from unifashion_pl.data.samples import EditBatch, PairBatch, TrainBatch, TripletBatch, by_stream
from unifashion_pl.freezing import set_frozen_to_eval
from unifashion_pl.names import keep_names_plain
from unifashion_pl.parts.trust import LibraryOnly
from unifashion_pl.resume import run_callbacks


class LossModule(L.LightningModule):
    """Trains by the sum of all losses of all streams: one backward, so that plain DDP works. Frozen parts stay in eval mode."""

    #: Name under which a loss is logged.
    logged = "train/{stream}/{name}"
    #: What may be wrong where no stream gives a loss.
    without_loss: str

    @abstractmethod
    def compute_losses(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Named losses of one stream's batch; empty when there is nothing to learn from it."""

    def training_step(self, batch: TrainBatch | dict[str, TrainBatch], batch_idx: int) -> Tensor:
        terms: list[Tensor] = []
        streams = by_stream(batch)
        for stream, part in streams.items():
            losses = self.compute_losses(part)
            logged = {self.logged.format(stream=stream, name=name): loss.detach() for name, loss in losses.items()}
            self.log_dict(logged, batch_size=len(part))
            terms += losses.values()
        if not terms:
            raise ValueError(f"no loss in a batch with the streams {sorted(streams)}: {self.without_loss}")
        total = torch.stack(terms).sum()
        self.log("train/loss", total.detach(), prog_bar=True)
        return total

    def train(self, mode: bool = True) -> Self:
        """Frozen parts stay in eval mode: no dropout, no running statistics."""
        super().train(mode)
        return set_frozen_to_eval(self) if mode else self

    def on_fit_start(self) -> None:
        self.train()  # Lightning trains in whatever mode it finds

    def configure_callbacks(self) -> list[L.Callback]:
        return run_callbacks(self)


class TaskModule(LibraryOnly, LossModule):
    """A head of the model.

    Alone, it owns a ``backbone`` and is trained by Lightning as any module. Under :class:`unifashion_pl.UniFashionModule` it is built
    without one; the orchestrator passes the shared backbone to :meth:`losses` and does the logging and optimising, because
    Lightning ignores a child's hooks and a second registration would double the backbone's keys in every checkpoint.

    Args:
        backbone: the Q-Former backbone when this head is trained alone, else None.
        learning_rate: AdamW's, used only when trained alone.
    """

    logged = "train/{name}"

    def __init__(self, backbone: QFormerBackbone | None = None, learning_rate: float = 1e-4) -> None:
        super().__init__()
        keep_names_plain(self)
        self.backbone = backbone
        self.learning_rate = learning_rate
        self.without_loss = f"{type(self).__name__} found nothing to learn in it"

    def prepare(self, batch: TrainBatch) -> TrainBatch:
        """What :meth:`losses` and the backbone are given for a batch of the data; a head that draws tasks does it here."""
        return batch

    @abstractmethod
    def losses(self, backbone: QFormerBackbone, batch: TrainBatch, encoding: Encoding) -> dict[str, Tensor]:
        """Named scalar losses of one batch; empty when this head has nothing to learn from it."""

    def compute_losses(self, batch: TrainBatch) -> dict[str, Tensor]:
        """:meth:`losses` with a backbone of its own."""
        if self.backbone is None:
            raise RuntimeError(f"{type(self).__name__} was built without a backbone: pass backbone=… to train it alone")
        batch = self.prepare(batch)
        if not isinstance(batch, PairBatch | TripletBatch | EditBatch):
            return {}
        return self.losses(self.backbone, batch, self.backbone.encode(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)
