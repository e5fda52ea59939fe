"""Datasets: raw layout -> samples -> shards -> typed batches."""

from unifashion_pl.datamodules.base import FashionDataModule
from unifashion_pl.datamodules.benchmark import BenchmarkDataModule
from unifashion_pl.datamodules.catalogue import CatalogueDataModule
from unifashion_pl.datamodules.fashion200k import Fashion200KDataModule
from unifashion_pl.datamodules.fashiongen import FashionGenDataModule
from unifashion_pl.datamodules.fashioniq import FashionIQDataModule
from unifashion_pl.datamodules.fashioniq_cap import FashionIQCapDataModule
from unifashion_pl.datamodules.mgd import MGDDataModule
from unifashion_pl.datamodules.mixed import MixedPairsDataModule
from unifashion_pl.datamodules.multitask import MultiTaskDataModule
from unifashion_pl.datamodules.table import TableDataModule
from unifashion_pl.datamodules.vitonhd import VitonHDDataModule
from unifashion_pl.datamodules.wardrobe import WardrobeDataModule

__all__ = [
    "BenchmarkDataModule",
    "CatalogueDataModule",
    "Fashion200KDataModule",
    "FashionDataModule",
    "FashionGenDataModule",
    "FashionIQCapDataModule",
    "FashionIQDataModule",
    "MGDDataModule",
    "MixedPairsDataModule",
    "MultiTaskDataModule",
    "TableDataModule",
    "VitonHDDataModule",
    "WardrobeDataModule",
]
