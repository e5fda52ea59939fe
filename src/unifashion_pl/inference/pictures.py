"""Images from texts, and from images with modifying texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from unifashion_pl.arguments import Images, OneImage, Seeds, rows_of, seeds
from unifashion_pl.backbone.words import readable
from unifashion_pl.data.transforms import to_pil
from unifashion_pl.inference.images import image_list
from unifashion_pl.inference.requests import (
    TOGETHER,
    check_scales,
    composed_queries,
    head_of,
    in_batches,
    pixels_for,
    readers_of,
)
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import require


def generate(
    model: FashionModel,
    prompt: str | Sequence[str],
    image: Images | None = None,
    seed: Seeds = 0,
    *,
    batch_size: int = TOGETHER,
    **settings: Any,
) -> list[Image.Image]:
    """One image per prompt, as PIL, H × W pixels as the model paints them.

    Args:
        prompt: a text, or a modifying text when there is an image; or a list.
        image: reference image(s) whose composition with the text guides the painting (Eq. 12), or None for text alone.
        seed: one for all prompts, or one each. A single prompt with several seeds gives variations.
        batch_size: pictures painted at once, as many as the memory takes. Kernels round differently for other numbers of rows: a few pixels may
            differ by 1 of 255 from those of another batch size.
        settings: of the diffusion head's ``generate``: ``sampler`` (a name of ``SAMPLERS``), ``guidance`` (a scale, 1 = none), ``steps``.

    Raises:
        ValueError: unequal numbers, a seed that is no whole number from 0, or a prompt of which the model can read nothing.
        RuntimeError: the model has not learned to paint from this.

    >>> model.generate("red dress with long sleeves", seed=0)[0].save("dress.png")  # doctest: +SKIP
    >>> model.generate("in blue", image="dress.png", seed=[0, 1, 2])  # doctest: +SKIP
    """
    head = head_of(model, "diffusion")
    require(model, "generation" if image is None else "composed generation")
    prompts = readable(prompt, *readers_of(model, with_backbone=image is not None))
    noise = seeds(seed)
    check_scales(settings)
    images: list[OneImage | None] = list(image_list(image)) if image is not None else [None]
    rows = rows_of({"prompt": prompts, "image": images, "seed": noise})
    if image is not None:
        model.backbone.warn_if_cut(prompts)

    def work(part: list[dict[str, Any]]) -> list[Image.Image]:
        texts, queries = [row["prompt"] for row in part], None
        if image is not None:
            queries = composed_queries(model, pixels_for(model, [row["image"] for row in part]), texts)
        made: Tensor = head.generate(queries, texts, seeds=[row["seed"] for row in part], **settings)
        return [to_pil(picture) for picture in made]

    return [picture for part in in_batches(model, rows, batch_size, work, "painting") for picture in part]
