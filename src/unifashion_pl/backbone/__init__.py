"""The encoder that all heads share: a vision tower and the Q-Former. Names are imported on first use: how texts are read (``words``) needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unifashion_pl.lazy import on_first_use

if TYPE_CHECKING:
    from unifashion_pl.backbone.published import PublishedText, PublishedVision
    from unifashion_pl.backbone.qformer import Encoding, QFormerBackbone, TextTokens
    from unifashion_pl.backbone.vision import VisionTower

__all__ = ["Encoding", "PublishedText", "PublishedVision", "QFormerBackbone", "TextTokens", "VisionTower"]
_PLACES = {
    "qformer": ("Encoding", "QFormerBackbone", "TextTokens"),
    "published": ("PublishedText", "PublishedVision"),
    "vision": ("VisionTower",),
}
__getattr__ = on_first_use(__name__, _PLACES)
