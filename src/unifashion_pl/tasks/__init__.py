"""The three heads, each a LightningModule that can be trained alone or under UniFashionModule."""

from unifashion_pl.tasks.base import TaskModule
from unifashion_pl.tasks.caption import CaptionModule
from unifashion_pl.tasks.diffusion import DiffusionModule
from unifashion_pl.tasks.editing import EditSettings
from unifashion_pl.tasks.language_model import LanguageModel, LoraSettings
from unifashion_pl.tasks.retrieval import RetrievalModule

__all__ = ["CaptionModule", "DiffusionModule", "EditSettings", "LanguageModel", "LoraSettings", "RetrievalModule", "TaskModule"]
