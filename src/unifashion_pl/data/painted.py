"""Pictures that are made of a sample's image fields before a frozen tower or autoencoder sees them, by name.

A name is that of an image field, that of one mirrored (:data:`~unifashion_pl.data.reader.MIRRORED` behind it), or :data:`GREYED`. None of
it is drawn at random: equal bytes give equal pictures in every epoch, so that what is made of them can be kept
(:mod:`unifashion_pl.data.features`, :mod:`unifashion_pl.data.latents`).
"""

from __future__ import annotations

import hashlib

from PIL import ImageOps
from torch import Tensor

from unifashion_pl.data.assemble import has_image, image_bytes, image_of
from unifashion_pl.data.reader import MIRRORED, RawSample
from unifashion_pl.data.transforms import BLACK, GREY, GREYED, EncoderTransform, MaskTransform, PixelTransform

Transform = EncoderTransform | PixelTransform
#: Image fields with black bars, which a sample need not have.
DARK = ("densepose", "sketch")


def sources(raw: RawSample, name: str) -> tuple[str, ...]:
    """Image fields of which a picture is made, () if the sample has no such picture."""
    if name in DARK and not has_image(raw, name):
        return ()
    return ("person", "mask") if name == GREYED else (name.removesuffix(MIRRORED),)


def digest_of(raw: RawSample, name: str) -> bytes | None:
    """Equal for equal pictures, None if the sample has no such picture.

    Raises:
        DamagedSample: a field is absent.
    """
    if not (parts := sources(raw, name)):
        return None
    digest = hashlib.sha256(name.encode() if name in (GREYED, *DARK) or name.endswith(MIRRORED) else b"")
    for part in parts:
        digest.update(image_bytes(raw, part))
    return digest.digest()


def painted_of(raw: RawSample, name: str, transform: Transform) -> Tensor:
    """A picture (3, H, W) uint8; what is black around or grey is so at the transform's size.

    Raises:
        DamagedSample: a field is absent or broken.
    """
    if isinstance(transform, PixelTransform):
        if name == GREYED:
            mask = MaskTransform(transform.size)(image_of(raw, "mask"))
            return transform(image_of(raw, "person")).masked_fill(mask, GREY)
        if name in DARK:
            transform = PixelTransform(transform.size, fill=BLACK)
    if name.endswith(MIRRORED):
        return transform(ImageOps.mirror(image_of(raw, name.removesuffix(MIRRORED))))
    return transform(image_of(raw, name))
