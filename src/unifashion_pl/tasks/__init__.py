"""The three heads, each a LightningModule that can be trained alone or under UniFashionModule."""

from unifashion_pl.tasks.base import TaskModule as TaskModule
from unifashion_pl.tasks.caption import CaptionModule as CaptionModule
from unifashion_pl.tasks.caption import GenerationSettings as GenerationSettings
from unifashion_pl.tasks.diffusion import DiffusionModule as DiffusionModule
from unifashion_pl.tasks.editing import EditSettings as EditSettings
from unifashion_pl.tasks.language_model import LanguageModel as LanguageModel
from unifashion_pl.tasks.language_model import LoraSettings as LoraSettings
from unifashion_pl.tasks.retrieval import RetrievalModule as RetrievalModule
