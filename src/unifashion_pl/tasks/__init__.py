"""The three heads, each a LightningModule that can be trained alone or under UniFashionModule."""

from unifashion_pl.tasks.retrieval import RetrievalModule

__all__ = ["RetrievalModule"]
