"""Inputs of try-on and design as a user has them -> tensors as the model takes them, checked by what they mean.

Public polarity of masks, everywhere: white (True) = repaint. Letters as in :mod:`unifashion_pl.data.samples`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unifashion_pl.data.samples import COMMON, TryOnBatch
from unifashion_pl.data.transforms import BLACK, GREY, EncoderTransform, MaskTransform, PixelTransform, to_pil
from unifashion_pl.person import checks
from unifashion_pl.person.body import KnownPerson, Options, mask_of, read_photo, saving_pictures
from unifashion_pl.person.checks import Limits
from unifashion_pl.person.masks import Mask
from unifashion_pl.person.pictures import ImageLike, read_picture
from unifashion_pl.person.pose import PoseLike
from unifashion_pl.person.problems import overlay, side_by_side
from unifashion_pl.person.sketch import garment_sketch


@dataclass(kw_only=True)
class TryOnInputs(TryOnBatch):
    """One person (and garment) ready for the model, as a batch of one; ``paired`` is False, ``dataset`` ``user``.

    In design ``garments`` and ``garment_pixels`` are the sketch, black without one. ``keys`` are the names of the files, "" where none
    were given.

    Attributes:
        notes: what was made or doubtful, in sentences.
        person: the photo itself, upright RGB, for pasting back in its own size.
        mask: (h, w) bool in that size.
    """

    notes: list[str] = field(metadata=COMMON)
    person: Image.Image = field(metadata=COMMON)
    mask: Mask = field(metadata=COMMON)


def prepare_tryon(
    person: ImageLike,
    garment: ImageLike,
    mask: ImageLike | None = None,
    pose: PoseLike | None = None,
    *,
    text: str = "",
    **options: Any,
) -> TryOnInputs:
    """A person and the photo of a garment -> checked inputs of the diffusion head.

    Pictures are paths, PIL images of any mode, uint8 or 0..1 arrays (H, W, 3) and tensors (3, H, W); EXIF orientation is applied,
    transparency lies over white. Photos keep their proportions: what (H, W) leaves free is white.

    Args:
        mask: white = repaint, in the person's proportions. Without it, one is made from ``agnostic``, from ``box``, from ``parse`` and
            ``pose``, or from ``pose`` alone, in this order.
        pose: joints (OpenPose BODY-25 or COCO-18), for the mask, for checks and, without ``densepose``, drawn as a skeleton.
        text: phrases of the garment.
        **options: sizes, further inputs of the person, limits: see :class:`~unifashion_pl.person.body.Options`.

    Raises:
        InputError: an input that cannot be meant as it is, with found, expected, cure and a picture; no mask and nothing to make one from.
        FileNotFoundError: no such file.
        TypeError: an unknown option.
    """
    chosen = Options.of(options)
    with saving_pictures(chosen.pictures):
        known = KnownPerson.of(person, pose, chosen)
        cloth = read_photo("garment", garment, chosen.limits)
        checks.check_not_swapped(known.photo, cloth, known.silhouette, chosen.limits)
        area, notes = mask_of(known, mask, chosen)
        checks.check_order(known.photo, cloth, area, known.pose, chosen.limits)
    return _inputs(chosen, known, area, cloth, None, text=text, key=_key(person, garment), notes=notes)


def prepare_design(
    person: ImageLike,
    sketch: ImageLike | None = None,
    pose: PoseLike | None = None,
    mask: ImageLike | None = None,
    *,
    text: str = "",
    garment: ImageLike | None = None,
    invert_sketch: bool = False,
    **options: Any,
) -> TryOnInputs:
    """A person, a drawing and words -> checked inputs of the diffusion head.

    Args:
        sketch: light strokes on black; without it one is drawn from ``garment``, an in-shop photo, if that is given; else there is none.
        invert_sketch: the sketch has dark strokes on white.
        text: what is to be designed.
        person, pose, mask, **options: as for :func:`prepare_tryon`.

    Raises:
        InputError, FileNotFoundError, TypeError: as for :func:`prepare_tryon`.
    """
    chosen = Options.of(options)
    with saving_pictures(chosen.pictures):
        known = KnownPerson.of(person, pose, chosen)
        drawing, drawn = _drawing(sketch, garment, invert_sketch, chosen.limits)
        area, made = mask_of(known, mask, chosen)
    return _inputs(chosen, known, area, None, drawing, text=text, key=_key(person, sketch), notes=drawn + made)


def _drawing(
    sketch: ImageLike | None, garment: ImageLike | None, invert: bool, limits: Limits
) -> tuple[Image.Image | None, list[str]]:
    """The sketch, given or drawn from the garment's photo, and how it came about if it was drawn."""
    if sketch is not None:
        return checks.check_sketch(read_picture("sketch", sketch), limits, invert=invert), []
    if garment is None:
        return None, []
    cloth = read_photo("garment", garment, limits)
    where, said = checks.usable_garment_mask(None, cloth, limits)
    return garment_sketch(cloth, where), [f"the sketch was drawn from the garment's photo. {said}".strip()]


def batch_of(inputs: Sequence[TryOnInputs]) -> TryOnBatch:
    """Several inputs of one kind as a batch.

    Raises:
        ValueError: none, or some with and some without a pose or a sketch.
    """
    if not inputs:
        raise ValueError("no inputs to make a batch of")
    for name, column in (("a pose", [i.pose for i in inputs]), ("a sketch", [i.sketches for i in inputs])):
        if 0 < (there := sum(value is not None for value in column)) < len(column):
            raise ValueError(f"{there} of {len(column)} inputs have {name}: give it to all of them, or to none")
    keys = [i.keys[0] or str(number) for number, i in enumerate(inputs)]
    return replace(TryOnBatch.cat(inputs), keys=keys)


def _inputs(
    options: Options,
    known: KnownPerson,
    area: Mask,
    garment: Image.Image | None,
    sketch: Image.Image | None,
    *,
    text: str,
    key: str,
    notes: list[str],
) -> TryOnInputs:
    person, (height, width) = known.photo, options.size
    light, dark = PixelTransform(options.size), PixelTransform(options.size, fill=BLACK)
    encoder, to_mask = EncoderTransform(options.image_size), MaskTransform(options.size)
    shown = garment if garment is not None else sketch if sketch is not None else Image.new("RGB", (width, height))
    rendered = known.render()
    if abs((person.width / person.height) / (width / height) - 1) > options.limits.aspect:
        notes = [*notes, f"person is {checks.size_of(person)}, painted is {width}×{height}: white bars fill the rest"]
    return TryOnInputs(
        keys=[key],
        garments=encoder(shown)[None],
        pixels=light(person)[None],
        masks=to_mask(Image.fromarray(area.astype(np.uint8) * 255))[None],
        pose=None if rendered is None else dark(rendered)[None],
        garment_pixels=(light(garment) if garment is not None else dark(shown))[None],
        sketches=None if sketch is None else dark(sketch)[None],
        texts=[text],
        paired=False,
        dataset="user",
        notes=notes,
        person=person,
        mask=area,
    )


def shown(inputs: TryOnInputs) -> Image.Image:
    """What a model is given of a person, to be looked at before it is painted: photo, pose over it, region in red, and what is left of the photo."""
    photo, region = to_pil(inputs.pixels[0]), inputs.masks[0, 0].numpy()
    posed = photo
    if inputs.pose is not None:
        skeleton = to_pil(inputs.pose[0])
        drawn = Image.fromarray((np.asarray(skeleton).max(-1) > 0).astype(np.uint8) * 255)
        posed = Image.composite(skeleton, Image.blend(photo, Image.new("RGB", photo.size), 0.4), drawn)
    left = Image.composite(
        Image.new("RGB", photo.size, (GREY, GREY, GREY)), photo, Image.fromarray(region.astype(np.uint8) * 255)
    )
    return side_by_side(photo, posed, overlay(photo, region), left)


def _key(*inputs: Any) -> str:
    """Names of the files without extensions, joined as in unpaired keys."""
    return "__".join(Path(value).stem for value in inputs if isinstance(value, str | Path))
