"""Captions of images."""

from __future__ import annotations

from typing import Any

from unifashion_pl.arguments import Images, OneImage
from unifashion_pl.inference.images import image_list
from unifashion_pl.inference.requests import head_of, in_batches, pixels_for
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import require


def caption(
    model: FashionModel, images: Images, style: str = "fashiongen", *, batch_size: int = 8, **settings: Any
) -> list[str]:
    """One caption per image.

    Args:
        style: ``fashion200k``, ``fashiongen`` or ``fashioniq`` (Table 7).
        settings: of the caption head's ``generate``, e.g. ``num_beams``, ``max_new_tokens``.

    Raises:
        RuntimeError: the model has not learned to caption.
    """
    head = head_of(model, "caption")
    require(model, "caption")

    def work(items: list[OneImage]) -> list[str]:
        queries = model.backbone.image_pass(model.backbone.image_features(pixels_for(model, items)))
        texts: list[str] = head.generate(queries, [style] * len(items), **settings)
        return texts

    return [text for part in in_batches(model, image_list(images), batch_size, work, "captions") for text in part]
