"""The training step over named losses, and what the three heads have in common: losses without logging."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from typing_extensions import Self

from unifashion_pl.backbone import Encoding, QFormerBackbone
from unifashion_pl.callbacks import row_follows
from unifashion_pl.data.samples import Batch, EditBatch, PairBatch, TrainBatch, TripletBatch, by_stream
from unifashion_pl.freezing import OWN_HEADS, PARTS, set_frozen_to_eval
from unifashion_pl.names import keep_names_plain
from unifashion_pl.parts.trust import LibraryOnly
from unifashion_pl.resume import run_callbacks
from unifashion_pl.team import averaged, team_of_all


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
        logged: dict[str, Tensor] = {}
        streams = by_stream(batch)
        for stream, part in streams.items():
            losses = self.compute_losses(part)
            logged |= {self.logged.format(stream=stream, name=name): loss.detach() for name, loss in losses.items()}
            terms += losses.values()
        if not terms:
            raise ValueError(f"no loss in a batch with the streams {sorted(streams)}: {self.without_loss}")
        total = torch.stack(terms).sum()
        logged["train/loss"] = total.detach()
        self._log_losses(logged)
        return total

    def _log_losses(self, own: Mapping[str, Tensor]) -> None:
        """Rows of the curves have means over the ranks that have a loss; between rows nothing is exchanged, and the bar shows this rank's."""
        values: Mapping[str, Any] = own
        if self._trainer is not None and self.trainer.world_size > 1 and row_follows(self.trainer):
            values = averaged(team_of_all(), {name: float(loss) for name, loss in own.items()})
        for name, value in values.items():
            self.log(name, value, prog_bar=name == "train/loss", batch_size=1)

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

    def on_validation_epoch_start(self) -> None:
        self._validated: dict[str, list[float]] = {}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The losses of a batch of the data, where this head is trained alone; batches that are searched or painted have none."""
        found = self.compute_losses(batch) if isinstance(batch, TrainBatch) else {}
        for name, loss in found.items():
            total = self._validated.setdefault(name, [0.0, 0.0])
            total[0] += float(loss) * len(batch)
            total[1] += len(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the mean of each over all samples and ranks as ``val/NAME``, and their sum as ``val/loss``."""
        ranks = team_of_all().objects(self._validated)
        names = sorted({name for rank in ranks for name in rank})
        sums = {name: [sum(rank.get(name, [0.0, 0.0])[i] for rank in ranks) for i in (0, 1)] for name in names}
        means = {f"val/{name}": total / count for name, (total, count) in sums.items()}
        if means:
            self.log_dict({**means, "val/loss": sum(means.values())}, sync_dist=False, rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)


def add_heads(model: LossModule, heads: Mapping[str, TaskModule]) -> tuple[str, ...]:
    """Make heads of somebody's own attributes of a model, ``NAME_head``; returns their names.

    Raises:
        ValueError: a name that is taken, or is no name; or a head with a backbone of its own.
    """
    for name, head in heads.items():
        if not name.isidentifier() or name in (*OWN_HEADS, *PARTS, "cross", "itg", "q2i") or hasattr(model, f"{name}_head"):
            raise ValueError(f"further: {name!r} is taken or no name; expected a word like 'attributes', the head's")
        if head.backbone is not None:
            raise ValueError(f"further: {name} brings a backbone; inside a model it uses the model's: build it without one")
        model.add_module(f"{name}_head", head)
    return tuple(heads)
