"""Inputs of try-on and design as a user has them -> tensors as the model takes them, checked by what they mean.

Public polarity of masks, everywhere: white (True) = repaint. Letters as in :mod:`unifashion_pl.data.samples`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unifashion_pl.data import contract
from unifashion_pl.data.cloth import garment_sketch
from unifashion_pl.data.contract import Limits
from unifashion_pl.data.decode import to_rgb
from unifashion_pl.data.pictures import ImageLike, read_picture
from unifashion_pl.data.pose import Pose, PoseLike, draw_skeleton, read_pose
from unifashion_pl.data.problems import InputError, default_pictures
from unifashion_pl.data.regions import Mask
from unifashion_pl.data.repaint import (
    Labels,
    Part,
    bounding_box,
    label_map,
    mask_from_agnostic,
    mask_from_box,
    mask_from_parse,
)
from unifashion_pl.data.samples import TryOnBatch
from unifashion_pl.data.transforms import BLACK, EncoderTransform, MaskTransform, PixelTransform

LIMITS = Limits()
NO_MASK = "Pass mask= (white = repaint), or parse= with pose= of the person, agnostic=, or box=(left, top, right, bottom)"


@dataclass(frozen=True, kw_only=True)
class TryOnInputs:
    """One person (and garment) ready for the model; tensors are named and typed as in :class:`TryOnBatch`, with B = 1.

    Attributes:
        garments: (1, 3, S, S) uint8, the garment's photo for the vision tower; in design the sketch, black without one.
        pixels: (1, 3, H, W) uint8, the person as photographed; outside of the mask it is what a picture has to keep.
        agnostic: (1, 3, H, W) uint8, the person with grey 128 where the mask is.
        masks: (1, 1, H, W) bool, True = repaint.
        pose: (1, 3, H, W) uint8, body parts or a drawn skeleton, or None.
        garment_pixels: (1, 3, H, W) uint8, the garment's photo; in design the sketch, black without one.
        sketches: (1, 3, H, W) uint8, light strokes on black, or None.
        text: phrases or a description of the garment, "" = none.
        key: names of the files, where files were given.
        notes: what was made or doubtful, in sentences.
        person: the photo itself, upright RGB, for pasting back in its own size.
        mask: (h, w) bool in that size.
    """

    garments: Tensor
    pixels: Tensor
    agnostic: Tensor
    masks: Tensor
    pose: Tensor | None
    garment_pixels: Tensor
    sketches: Tensor | None
    text: str = ""
    key: str = ""
    notes: list[str] = field(default_factory=list)
    person: Image.Image
    mask: Mask


@dataclass(frozen=True, kw_only=True)
class _Settings:
    size: tuple[int, int]
    image_size: int
    limits: Limits
    pictures: Path


def prepare_tryon(
    person: ImageLike,
    garment: ImageLike,
    mask: ImageLike | None = None,
    pose: PoseLike | None = None,
    *,
    size: tuple[int, int] = (512, 384),
    image_size: int = 224,
    text: str = "",
    densepose: ImageLike | None = None,
    agnostic: ImageLike | None = None,
    parse: ImageLike | None = None,
    box: Sequence[float] | None = None,
    labels: Labels = "lip",
    part: Part = "upper_body",
    boxed: bool = False,
    invert_mask: bool = False,
    threshold: int | None = None,
    pose_size: tuple[int, int] | None = None,
    limits: Limits = LIMITS,
    pictures: str | Path | None = None,
) -> TryOnInputs:
    """A person and the photo of a garment -> checked inputs of the diffusion head.

    Pictures are paths, PIL images of any mode, uint8 or 0..1 arrays (H, W, 3) and tensors (3, H, W); EXIF orientation is applied,
    transparency lies over white. Photos keep their proportions: what (H, W) leaves free is white.

    Args:
        mask: white = repaint, in the person's proportions. Without it, one is made from ``agnostic``, from ``box``, or from ``parse``
            and ``pose``, in this order.
        pose: joints (OpenPose BODY-25 or COCO-18), for the mask, for checks and, without ``densepose``, drawn as a skeleton.
        size: (H, W) of the pictures to be painted; multiples of 64 for Stable Diffusion.
        image_size: S of the vision tower.
        text: phrases of the garment.
        densepose: body parts on black; it goes before the skeleton.
        agnostic: the person with grey 128 where it is repainted; only used for the mask and checks, the hole is filled anew.
        parse: label map of the person, ``labels`` its scheme (``lip`` as in VITON-HD, ``atr`` as in Dress Code).
        box: (left, top, right, bottom) in pixels of the person.
        part: what a mask from ``parse`` covers.
        boxed: widen a made mask to its bounding box, which does not tell the worn garment's outline.
        invert_mask: the mask says white = keep.
        threshold: cut a soft mask here (0…255).
        pose_size: (h, w) that the joints refer to, if not to the person.
        limits: thresholds of the checks.
        pictures: folder for pictures of problems; default one of the system's temporary folder.

    Raises:
        InputError: an input that cannot be meant as it is, with found, expected, cure and a picture; no mask and nothing to make one from.
        FileNotFoundError: no such file.
    """
    settings = _Settings(size=size, image_size=image_size, limits=limits, pictures=Path(pictures or default_pictures()))
    try:
        shown = _photo("person", person, limits)
        cloth = _photo("garment", garment, limits)
        body = _Body.of(shown, pose, densepose, parse, labels, pose_size, limits)
        contract.check_not_swapped(shown, cloth, body.silhouette, limits)
        area, made = _mask(shown, body, mask, agnostic, box, labels, part, boxed, invert_mask, threshold, limits)
    except InputError as error:
        error.save(settings.pictures)
        raise
    return _inputs(settings, shown, area, body, cloth, None, text, _key(person, garment), made)


def prepare_design(
    person: ImageLike,
    sketch: ImageLike | None = None,
    pose: PoseLike | None = None,
    mask: ImageLike | None = None,
    *,
    size: tuple[int, int] = (512, 384),
    image_size: int = 224,
    text: str = "",
    garment: ImageLike | None = None,
    densepose: ImageLike | None = None,
    agnostic: ImageLike | None = None,
    parse: ImageLike | None = None,
    box: Sequence[float] | None = None,
    labels: Labels = "lip",
    part: Part = "upper_body",
    boxed: bool = False,
    invert_mask: bool = False,
    invert_sketch: bool = False,
    threshold: int | None = None,
    pose_size: tuple[int, int] | None = None,
    limits: Limits = LIMITS,
    pictures: str | Path | None = None,
) -> TryOnInputs:
    """A person, a drawing and words -> checked inputs of the diffusion head.

    Args:
        sketch: light strokes on black; without it one is drawn from ``garment``, an in-shop photo, if that is given; else there is none.
        invert_sketch: the sketch has dark strokes on white.
        text: what is to be designed.
        person, pose, mask, size, …: as for :func:`prepare_tryon`.

    Raises:
        InputError, FileNotFoundError: as for :func:`prepare_tryon`.
    """
    settings = _Settings(size=size, image_size=image_size, limits=limits, pictures=Path(pictures or default_pictures()))
    notes: list[str] = []
    try:
        shown = _photo("person", person, limits)
        body = _Body.of(shown, pose, densepose, parse, labels, pose_size, limits)
        drawing = (
            None if sketch is None else contract.check_sketch(read_picture("sketch", sketch), limits, invert=invert_sketch)
        )
        if drawing is None and garment is not None:
            cloth = _photo("garment", garment, limits)
            where, said = contract.usable_garment_mask(None, cloth, limits)
            drawing, notes = garment_sketch(cloth, where), [f"the sketch was drawn from the garment's photo. {said}".strip()]
        area, made = _mask(shown, body, mask, agnostic, box, labels, part, boxed, invert_mask, threshold, limits)
    except InputError as error:
        error.save(settings.pictures)
        raise
    return _inputs(settings, shown, area, body, None, drawing, text, _key(person, sketch), notes + made)


def batch_of(inputs: Sequence[TryOnInputs], *, paired: bool = False, dataset: str = "user") -> TryOnBatch:
    """Several inputs of one kind as a batch.

    Raises:
        ValueError: none, or some with and some without a pose or a sketch.
    """
    if not inputs:
        raise ValueError("no inputs to make a batch of")
    keys = [i.key or str(number) for number, i in enumerate(inputs)]
    return TryOnBatch(
        keys=keys,
        garments=torch.cat([i.garments for i in inputs]),
        pixels=torch.cat([i.pixels for i in inputs]),
        agnostic=torch.cat([i.agnostic for i in inputs]),
        masks=torch.cat([i.masks for i in inputs]),
        pose=_joined("a pose", [i.pose for i in inputs]),
        garment_pixels=torch.cat([i.garment_pixels for i in inputs]),
        sketches=_joined("a sketch", [i.sketches for i in inputs]),
        texts=[i.text for i in inputs],
        paired=paired,
        dataset=dataset,
    )


def _joined(name: str, values: Sequence[Tensor | None]) -> Tensor | None:
    there = [value for value in values if value is not None]
    if there and len(there) < len(values):
        raise ValueError(f"{len(there)} of {len(values)} inputs have {name}: give it to all of them, or to none")
    return torch.cat(there) if there else None


@dataclass(frozen=True)
class _Body:
    """What is known about the person beside the photo: joints, rendered body parts, labels (h, w), silhouette (h, w)."""

    pose: Pose | None
    densepose: Image.Image | None
    parse: NDArray[np.uint8] | None
    silhouette: Mask | None

    @classmethod
    def of(
        cls,
        person: Image.Image,
        pose: PoseLike | None,
        densepose: ImageLike | None,
        parse: ImageLike | None,
        labels: Labels,
        pose_size: tuple[int, int] | None,
        limits: Limits,
    ) -> _Body:
        """Read and check it all."""
        joints = None if pose is None else read_pose(pose, (person.height, person.width), pose_size=pose_size)
        values = None
        if parse is not None:
            picture = read_picture("parse", parse)
            contract.check_aspect("parse", picture, person, limits)
            values = label_map(picture.resize(person.size, Image.Resampling.NEAREST), labels)
        parts = None if densepose is None else read_picture("densepose", densepose)
        if parts is not None:
            parsed = contract.silhouette_of(values, None, person.size)
            contract.check_densepose(parts, person, parsed, limits)
        silhouette = contract.silhouette_of(values, parts, person.size)
        if joints is not None:
            contract.check_joints_on(joints, silhouette, person)
        return cls(joints, parts, values, silhouette)

    def rendered(self) -> Image.Image | None:
        """DensePose, else a skeleton, else nothing."""
        if self.densepose is not None:
            return to_rgb(self.densepose)
        return None if self.pose is None else draw_skeleton(self.pose)


def _mask(
    person: Image.Image,
    body: _Body,
    mask: ImageLike | None,
    agnostic: ImageLike | None,
    box: Sequence[float] | None,
    labels: Labels,
    part: Part,
    boxed: bool,
    invert: bool,
    threshold: int | None,
    limits: Limits,
) -> tuple[Mask, list[str]]:
    """The mask in the person's size, and how it came about if it was made."""
    hidden = None if agnostic is None else read_picture("agnostic", agnostic)
    if hidden is not None:
        contract.check_aspect("agnostic", hidden, person, limits)
    if mask is not None:
        area = contract.hard_mask(read_picture("mask", mask), person, limits, invert=invert, threshold=threshold)
        contract.check_mask(area, person, limits, body.pose if part != "lower_body" else None)
        if hidden is not None:
            contract.check_agnostic(hidden, area, person, limits)
        return area, []
    size = (person.height, person.width)
    if hidden is not None:
        area = np.asarray(mask_from_agnostic(person, hidden.resize(person.size))) >= 128
        contract.check_agnostic(hidden, area, person, limits)
        said = "the agnostic picture"
    elif box is not None:
        area, said = mask_from_box(box, size), "the box"
    elif body.parse is not None:
        area, said = (
            mask_from_parse(body.parse, body.pose, labels=labels, part=part),
            "the label map" + " and joints" * bool(body.pose),
        )
    else:
        raise InputError("mask", "is absent, and nothing to make it from was given", "where the person is repainted", NO_MASK)
    if boxed:
        area = mask_from_box(bounding_box(area), size) if area.any() else area
    contract.check_mask(area, person, limits, body.pose if part != "lower_body" else None, given=False)
    return area, [f"the mask was made from {said}"]


def _inputs(
    settings: _Settings,
    person: Image.Image,
    area: Mask,
    body: _Body,
    garment: Image.Image | None,
    sketch: Image.Image | None,
    text: str,
    key: str,
    notes: list[str],
) -> TryOnInputs:
    light, dark = PixelTransform(settings.size), PixelTransform(settings.size, fill=BLACK)
    encoder, to_mask = EncoderTransform(settings.image_size), MaskTransform(settings.size)
    masks = to_mask(Image.fromarray(area.astype(np.uint8) * 255))
    # the hole is made at the final size, so that mask and grey coincide pixel for pixel
    pixels = light(person)
    drawn = None if sketch is None else dark(sketch)
    shown = garment if garment is not None else sketch if sketch is not None else Image.new("RGB", settings.size[::-1])
    rendered = body.rendered()
    ratio = (person.width / person.height) / (settings.size[1] / settings.size[0])
    if abs(ratio - 1) > settings.limits.aspect:
        notes = [
            *notes,
            f"person is {contract.described(person)}, painted is {settings.size[1]}×{settings.size[0]}: white bars fill the rest",
        ]
    return TryOnInputs(
        garments=encoder(shown)[None],
        pixels=pixels[None],
        agnostic=pixels.masked_fill(masks, 128)[None],
        masks=masks[None],
        pose=None if rendered is None else dark(rendered)[None],
        garment_pixels=(light(garment) if garment is not None else dark(shown))[None],
        sketches=None if drawn is None else drawn[None],
        text=text,
        key=key,
        notes=notes,
        person=person,
        mask=area,
    )


def _photo(subject: str, value: ImageLike, limits: Limits) -> Image.Image:
    image = to_rgb(read_picture(subject, value))
    contract.check_photo(subject, image, limits)
    return image


def _key(*inputs: Any) -> str:
    """Names of the files without extensions, joined as in unpaired keys."""
    return "__".join(Path(value).stem for value in inputs if isinstance(value, str | Path))
