"""Captions of images."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from unifashion_pl.arguments import Images, OneImage
from unifashion_pl.inference.images import image_list
from unifashion_pl.inference.requests import head_of, in_batches, pixels_for
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import require


def caption(
    model: FashionModel, images: Images, style: str = "fashiongen", *, batch_size: int = 8, **settings: Any
) -> list[str]:
    """One caption per image, in their order.

    Args:
        images: as in :func:`~unifashion_pl.inference.encode.encode_image`, one or a list.
        style: ``fashion200k``, ``fashiongen`` or ``fashioniq`` (Table 7).
        batch_size: images that are captioned together.
        settings: of the caption head's ``generate``: ``num_beams`` (beams), ``max_new_tokens`` (tokens).

    Raises:
        ValueError: an image that cannot be read, an unknown style.
        RuntimeError: the model has no caption head, or has not learned to caption.

    >>> model.caption(["dress.jpg", "shirt.jpg"], style="fashioniq", num_beams=3)  # doctest: +SKIP
    """
    head = head_of(model, "caption")
    require(model, "caption")

    def work(items: list[OneImage]) -> list[str]:
        queries = model.backbone.image_pass(model.backbone.image_features(pixels_for(model, items)))
        texts: list[str] = head.generate(queries, [style] * len(items), **settings)
        return texts

    decoder = getattr(head, "language_model", None)  # a head of one's own may have none
    with nullcontext() if decoder is None else decoder.merged():  # once, not for every batch
        return [text for part in in_batches(model, image_list(images), batch_size, work, "captions") for text in part]
