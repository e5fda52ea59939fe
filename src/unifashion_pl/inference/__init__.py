"""The model on what people have at hand: paths, PIL images, arrays, tensors, lists of them. Plain functions, each with the
model as its first argument: :class:`unifashion_pl.UniFashionModule` has them as methods.

All of them work in batches without keeping gradients, put the model into eval mode and back, and give the same answer for any
batch size. Results lie on the CPU. Names are imported on first use: a search by text needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unifashion_pl.lazy import on_first_use

if TYPE_CHECKING:
    from unifashion_pl.inference.captions import caption
    from unifashion_pl.inference.encode import compose, encode_image, encode_image_sets, encode_text
    from unifashion_pl.inference.images import UnreadableImages, open_image
    from unifashion_pl.inference.multi_vector import MultiVectorEncoder, encoder
    from unifashion_pl.inference.persons import design, try_on
    from unifashion_pl.inference.pictures import generate

__all__ = [
    "MultiVectorEncoder",
    "UnreadableImages",
    "caption",
    "compose",
    "design",
    "encode_image",
    "encode_image_sets",
    "encode_text",
    "encoder",
    "generate",
    "open_image",
    "try_on",
]
__getattr__ = on_first_use(
    __name__,
    {
        "captions": ("caption",),
        "encode": ("compose", "encode_image", "encode_image_sets", "encode_text"),
        "images": ("UnreadableImages", "open_image"),
        "multi_vector": ("MultiVectorEncoder", "encoder"),
        "persons": ("design", "try_on"),
        "pictures": ("generate",),
    },
)
