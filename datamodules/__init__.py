"""Datasets: raw layout -> samples -> shards -> typed batches."""

from unifashion_pl.datamodules.base import FashionDataModule
from unifashion_pl.datamodules.fashiongen import FashionGenDataModule

__all__ = ["FashionDataModule", "FashionGenDataModule"]
