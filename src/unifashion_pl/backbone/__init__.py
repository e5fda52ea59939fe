"""The encoder that all heads share: a vision tower and the Q-Former."""

from unifashion_pl.backbone.qformer import Encoding, QFormerBackbone, TextTokens
from unifashion_pl.backbone.vision import VisionTower

__all__ = ["Encoding", "QFormerBackbone", "TextTokens", "VisionTower"]
