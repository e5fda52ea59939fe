"""Datasets: raw layout -> samples -> shards -> typed batches."""

from unifashion_pl.datamodules.base import FashionDataModule
from unifashion_pl.datamodules.catalogue import CatalogueDataModule
from unifashion_pl.datamodules.fashiongen import FashionGenDataModule
from unifashion_pl.datamodules.fashioniq import FashionIQDataModule
from unifashion_pl.datamodules.multitask import MultiTaskDataModule
from unifashion_pl.datamodules.vitonhd import VitonHDDataModule
from unifashion_pl.datamodules.wardrobe import WardrobeDataModule

__all__ = [
    "CatalogueDataModule",
    "FashionDataModule",
    "FashionGenDataModule",
    "FashionIQDataModule",
    "MultiTaskDataModule",
    "VitonHDDataModule",
    "WardrobeDataModule",
]
