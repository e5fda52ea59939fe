"""What the three heads have in common: losses without logging, and a training step of their own when used alone."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning as L
import torch
from torch import Tensor

from unifashion_pl.backbone import Encoding, QFormerBackbone
from unifashion_pl.data.samples import EditBatch, PairBatch, TrainBatch, TripletBatch, by_stream
from unifashion_pl.freezing import set_frozen_to_eval
from unifashion_pl.names import keep_names_plain
from unifashion_pl.parts.trust import LibraryOnly
from unifashion_pl.resume import run_callbacks


class TaskModule(LibraryOnly, L.LightningModule):
    """A head of the model.

    Alone, it owns a ``backbone`` and is trained by Lightning as any module. Under :class:`unifashion_pl.UniFashionModule` it is built
    without one; the orchestrator passes the shared backbone to :meth:`losses` and does the logging and optimising, because
    Lightning ignores a child's hooks and a second registration would double the backbone's keys in every checkpoint.

    Args:
        backbone: the Q-Former backbone when this head is trained alone, else None.
        learning_rate: AdamW's, used only when trained alone.
    """

    def __init__(self, backbone: QFormerBackbone | None = None, learning_rate: float = 1e-4) -> None:
        super().__init__()
        keep_names_plain(self)
        self.backbone = backbone
        self.learning_rate = learning_rate

    def prepare(self, batch: TrainBatch) -> TrainBatch:
        """What :meth:`losses` and the backbone are given for a batch of the data; a head that draws tasks does it here."""
        return batch

    @abstractmethod
    def losses(self, backbone: QFormerBackbone, batch: TrainBatch, encoding: Encoding) -> dict[str, Tensor]:
        """Named scalar losses of one batch; empty when this head has nothing to learn from it."""

    def train(self, mode: bool = True) -> TaskModule:
        """Frozen parts stay in eval mode."""
        super().train(mode)
        return set_frozen_to_eval(self) if mode else self

    def on_fit_start(self) -> None:
        self.train()  # Lightning trains in whatever mode it finds

    def training_step(self, batch: TrainBatch | dict[str, TrainBatch], batch_idx: int) -> Tensor:
        if self.backbone is None:
            raise RuntimeError(f"{type(self).__name__} was built without a backbone: pass backbone=… to train it alone")
        terms: list[Tensor] = []
        streams = by_stream(batch)
        for given in streams.values():
            part = self.prepare(given)
            if isinstance(part, PairBatch | TripletBatch | EditBatch):
                losses = self.losses(self.backbone, part, self.backbone.encode(part))
                self.log_dict({f"train/{k}": v.detach() for k, v in losses.items()}, batch_size=len(part))
                terms += losses.values()
        if not terms:
            raise ValueError(f"{type(self).__name__} found nothing to learn in a batch with the streams {sorted(streams)}")
        total = torch.stack(terms).sum()
        self.log("train/loss", total.detach(), prog_bar=True)
        return total

    def configure_callbacks(self) -> list[L.Callback]:
        return run_callbacks(self)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)
