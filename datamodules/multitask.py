"""Several datasets at once: every training step gets a batch of each stream."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.utilities import CombinedLoader
from unifashion_pl.datamodules.base import FashionDataModule
from unifashion_pl.datamodules.mixed import MixedPairsDataModule

from unifashion_pl.data.stream import EvalLoader


class MultiTaskDataModule(L.LightningDataModule):
    """Up to three DataModules as one.

    A training step receives ``{"pairs": PairBatch, "triplets": TripletBatch, "tryon": TryOnBatch}`` with the streams that there are.
    An epoch is as long as the longest stream; a shorter one goes on with its next epoch. Validation and test run all evaluation
    loaders one after the other.

    Args:
        pairs: image–text pairs, e.g. :class:`~unifashion_pl.datamodules.FashionGenDataModule` or several datasets mixed.
        triplets: e.g. :class:`~unifashion_pl.datamodules.FashionIQDataModule`.
        tryon: e.g. :class:`~unifashion_pl.datamodules.VitonHDDataModule`.

    Raises:
        ValueError: no DataModule, or one whose stream is another.
    """

    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        pairs: L.LightningDataModule | None = None,
        triplets: L.LightningDataModule | None = None,
        tryon: L.LightningDataModule | None = None,
    ) -> None:
        super().__init__()
        self.parts: dict[str, FashionDataModule | MixedPairsDataModule] = {}
        for name, part in (("pairs", pairs), ("triplets", triplets), ("tryon", tryon)):
            if part is None:
                continue
            if not isinstance(part, FashionDataModule | MixedPairsDataModule) or part.stream != name:
                yields = getattr(part, "stream", "no stream of this library")
                raise ValueError(f"{type(part).__name__} was given as {name}, but it yields {yields}")
            self.parts[name] = part
        if not self.parts:
            raise ValueError("MultiTaskDataModule needs at least one of pairs, triplets and tryon")

    def prepare_data(self) -> None:
        """Make shards that do not exist yet."""
        for part in self.parts.values():
            part.prepare_data()

    def setup(self, stage: str) -> None:
        """Hand the trainer on, from which the parts know ranks."""
        for part in self.parts.values():
            part.trainer = self.trainer
            part.setup(stage)

    def train_dataloader(self) -> CombinedLoader:
        """``{stream: batch}``, as long as the longest stream."""
        return CombinedLoader({name: part.train_loader() for name, part in self.parts.items()}, "max_size_cycle")

    def val_dataloader(self) -> list[EvalLoader[Any]]:
        """All validation loaders."""
        return [loader for part in self.parts.values() for loader in part.eval_loaders("validation")]

    def test_dataloader(self) -> list[EvalLoader[Any]]:
        """All test loaders."""
        return [loader for part in self.parts.values() for loader in part.eval_loaders("test")]
