"""Datasets: raw layout -> samples -> shards -> typed batches."""

from unifashion_pl.datamodules.base import FashionDataModule as FashionDataModule
from unifashion_pl.datamodules.benchmark import BenchmarkDataModule as BenchmarkDataModule
from unifashion_pl.datamodules.catalogue import CatalogueDataModule as CatalogueDataModule
from unifashion_pl.datamodules.catalogue_edits import CatalogueEditsDataModule as CatalogueEditsDataModule
from unifashion_pl.datamodules.catalogue_edits import ComposedCatalogueDataModule as ComposedCatalogueDataModule
from unifashion_pl.datamodules.fashion200k import Fashion200KDataModule as Fashion200KDataModule
from unifashion_pl.datamodules.fashiongen import FashionGenDataModule as FashionGenDataModule
from unifashion_pl.datamodules.fashioniq import FashionIQDataModule as FashionIQDataModule
from unifashion_pl.datamodules.fashioniq_cap import FashionIQCapDataModule as FashionIQCapDataModule
from unifashion_pl.datamodules.mgd import MGDDataModule as MGDDataModule
from unifashion_pl.datamodules.mixed import MixedPairsDataModule as MixedPairsDataModule
from unifashion_pl.datamodules.multitask import MultiTaskDataModule as MultiTaskDataModule
from unifashion_pl.datamodules.table import TableDataModule as TableDataModule
from unifashion_pl.datamodules.vitonhd import VitonHDDataModule as VitonHDDataModule
from unifashion_pl.datamodules.wardrobe import WardrobeDataModule as WardrobeDataModule
