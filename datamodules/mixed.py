"""Several datasets of image-text pairs in one stream: every batch holds a share of each, as phase 1 of the paper (Table 6) mixes them."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
from unifashion_pl.datamodules.base import FashionDataModule, JoinedDataModule, StreamsLoader

from unifashion_pl.data.mixing import MixedPairLoader


class MixedPairsDataModule(JoinedDataModule):
    """Image-text pairs of several datasets; a batch is as large as the parts' batches together.

    Captions keep the style of their dataset, and samples of different datasets are negatives of each other. Evaluation runs the loaders of
    all parts.

    Args:
        parts: DataModules of pairs, each with its own ``batch_size``.
        epoch_of: dataset, e.g. ``fashiongen``, one pass over which is an epoch; None = the part with the most batches. The others go on
            from epoch to epoch where they were.

    Raises:
        ValueError: no parts, or one that does not yield pairs.
    """

    stream = "pairs"

    def __init__(self, parts: Sequence[L.LightningDataModule], epoch_of: str | None = None) -> None:
        super().__init__()
        self.epoch_of = epoch_of
        self.parts: list[FashionDataModule] = []
        for part in parts:
            if not isinstance(part, FashionDataModule) or part.stream != self.stream:
                raise ValueError(f"{type(part).__name__} does not yield pairs of this library and cannot be mixed with others")
            self.parts.append(part)
        if not self.parts:
            raise ValueError("MixedPairsDataModule needs at least one DataModule of pairs")

    @property
    def members(self) -> Sequence[FashionDataModule]:
        """The parts."""
        return self.parts

    def train_loader(self) -> MixedPairLoader:
        """The training stream."""
        return MixedPairLoader([part.train_loader() for part in self.parts], self.epoch_of)

    def train_dataloader(self) -> StreamsLoader:
        """``{"pairs": batch}``."""
        return StreamsLoader({self.stream: self.train_loader()})
