"""Several datasets at once: every training step gets a batch of each stream."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
from unifashion_pl.datamodules.base import FashionDataModule, JoinedDataModule, StreamsLoader
from unifashion_pl.datamodules.mixed import MixedPairsDataModule


class MultiTaskDataModule(JoinedDataModule):
    """Up to three DataModules as one.

    A training step receives ``{"pairs": PairBatch, "triplets": TripletBatch, "tryon": TryOnBatch}`` with the streams that there are.
    Validation and test run all evaluation loaders one after the other.

    Args:
        pairs: image–text pairs, e.g. :class:`~unifashion_pl.datamodules.FashionGenDataModule` or several datasets mixed.
        triplets: e.g. :class:`~unifashion_pl.datamodules.FashionIQDataModule`.
        tryon: e.g. :class:`~unifashion_pl.datamodules.VitonHDDataModule`.
        epoch_of: stream (``triplets``) or dataset of one (``fashiongen``), one pass over which is an epoch; of a list, the first that
            is trained on; None = the longest stream. The others go on from epoch to epoch where they were: a shorter one begins its next pass, a longer one its next part.

    Raises:
        ValueError: no DataModule, or one whose stream is another.
    """

    def __init__(
        self,
        pairs: L.LightningDataModule | None = None,
        triplets: L.LightningDataModule | None = None,
        tryon: L.LightningDataModule | None = None,
        epoch_of: str | list[str] | None = None,
    ) -> None:
        super().__init__()
        self.epoch_of = epoch_of
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

    @property
    def members(self) -> Sequence[FashionDataModule | MixedPairsDataModule]:
        """The DataModules of the streams."""
        return list(self.parts.values())

    def train_dataloader(self) -> StreamsLoader:
        """``{stream: batch}``.

        Raises:
            ValueError: no stream or dataset is called ``epoch_of``.
        """
        return StreamsLoader({name: part.train_loader() for name, part in self.parts.items()}, self.epoch_of)
