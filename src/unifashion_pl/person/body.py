"""What is known about a person who is to be repainted: options, joints, body parts, labels, and the mask, given or made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unifashion_pl.arguments import choice
from unifashion_pl.data.decode import to_rgb
from unifashion_pl.person import checks
from unifashion_pl.person.checks import Limits
from unifashion_pl.person.masks import (
    Labels,
    Mask,
    Part,
    bounding_box,
    label_map,
    mask_from_agnostic,
    mask_from_box,
    mask_from_parse,
    mask_from_pose,
)
from unifashion_pl.person.pictures import ImageLike, read_picture
from unifashion_pl.person.pose import Pose, PoseLike, draw_skeleton, read_pose
from unifashion_pl.person.problems import InputError

LIMITS = Limits()
NO_MASK = "Pass mask= (white = repaint), parse= or pose= of the person, agnostic=, or box=(left, top, right, bottom)"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sizes, inputs of the person beside photo, mask and joints, and limits.

    Attributes:
        size: (H, W) of the pictures to be painted; multiples of 64 for Stable Diffusion.
        image_size: S of the vision tower.
        densepose: body parts on black; it goes before the skeleton.
        agnostic: the person with grey 128 where it is repainted; only used for the mask and checks, the hole is filled anew.
        parse: label map of the person, ``labels`` its scheme (``lip`` as in VITON-HD, ``atr`` as in Dress Code).
        box: (left, top, right, bottom) in pixels of the person.
        part: what a mask from ``parse``, or from joints alone, covers.
        boxed: widen a made mask to its bounding box, which does not tell the worn garment's outline.
        invert_mask: the mask says white = keep.
        threshold: cut a soft mask here (0…255).
        pose_size: (h, w) that the joints refer to, if not to the person.
        limits: thresholds of the checks.
        pictures: folder for pictures of problems; default one of the system's temporary folder. False: the error alone has them, and no file is written.
    """

    size: tuple[int, int] = (512, 384)
    image_size: int = 224
    densepose: ImageLike | None = None
    agnostic: ImageLike | None = None
    parse: ImageLike | None = None
    box: Sequence[float] | None = None
    labels: Labels = "lip"
    part: Part = "upper_body"
    boxed: bool = False
    invert_mask: bool = False
    threshold: int | None = None
    pose_size: tuple[int, int] | None = None
    limits: Limits = LIMITS
    pictures: str | Path | Literal[False] | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Options:
        """From keywords.

        Raises:
            TypeError: unknown ones, with those that there are.
        """
        for name in values:
            choice(name, "input", [option.name for option in fields(cls)])
        return cls(**values)


@dataclass(frozen=True)
class KnownPerson:
    """What is known: photo (upright RGB), joints, rendered body parts, labels (h, w), silhouette (h, w)."""

    photo: Image.Image
    pose: Pose | None
    densepose: Image.Image | None
    parse: NDArray[np.uint8] | None
    silhouette: Mask | None

    @classmethod
    def of(cls, photo: ImageLike, pose: PoseLike | None, options: Options) -> KnownPerson:
        """Read and check it all.

        Raises:
            InputError: something does not fit the person.
        """
        person = read_photo("person", photo, options.limits)
        joints = None if pose is None else read_pose(pose, (person.height, person.width), pose_size=options.pose_size)
        values = None
        if options.parse is not None:
            picture = read_picture("parse", options.parse)
            checks.check_aspect("parse", picture, person, options.limits)
            values = label_map(picture.resize(person.size, Image.Resampling.NEAREST), options.labels)
        parts = None if options.densepose is None else read_picture("densepose", options.densepose)
        if parts is not None:
            parsed = checks.silhouette_of(values, None, person.size)
            checks.check_densepose(parts, person, parsed, options.limits)
        silhouette = checks.silhouette_of(values, parts, person.size)
        if joints is not None:
            checks.check_joints_on(joints, silhouette, person)
        return cls(person, joints, parts, values, silhouette)

    def render(self) -> Image.Image | None:
        """DensePose, else a skeleton, else nothing."""
        if self.densepose is not None:
            return to_rgb(self.densepose)
        return None if self.pose is None else draw_skeleton(self.pose)


def read_photo(subject: str, value: ImageLike, limits: Limits) -> Image.Image:
    """A photo as upright RGB, with a warning if it is small."""
    image = to_rgb(read_picture(subject, value))
    if min(image.size) < limits.short_side:
        size = checks.size_of(image)
        checks.warn(f"{subject} is {size}: expected are {limits.short_side} pixels or more on the shorter side")
    return image


@contextmanager
def saving_pictures(folder: str | Path | Literal[False] | None) -> Iterator[None]:
    """Save the picture of an :class:`InputError` that is raised inside; None = a folder of the system's temporary one, False = do not."""
    try:
        yield
    except InputError as error:
        if folder is not False:
            error.save(Path(folder or Path(tempfile.gettempdir()) / "unifashion-problems"))
        raise


def mask_of(person: KnownPerson, mask: ImageLike | None, options: Options) -> tuple[Mask, list[str]]:
    """The mask (h, w) in the person's size, and how it came about if it was made.

    Raises:
        InputError: it does not fit the person, or there is nothing to make one from.
    """
    limits, photo = options.limits, person.photo
    torso = person.pose if options.part != "lower_body" else None
    hidden = None if options.agnostic is None else read_picture("agnostic", options.agnostic)
    if hidden is not None:
        checks.check_aspect("agnostic", hidden, photo, limits)
    if mask is not None:
        picture = read_picture("mask", mask)
        area = checks.hard_mask(picture, photo, limits, invert=options.invert_mask, threshold=options.threshold)
        checks.check_mask(area, photo, limits, torso)
        if hidden is not None:
            checks.check_agnostic(hidden, area, photo, limits)
        return area, []
    area, said = _make_mask(person, hidden, options)
    if options.boxed and area.any():
        area = mask_from_box(bounding_box(area), (photo.height, photo.width))
    checks.check_mask(area, photo, limits, torso, given=False)
    return area, [f"the mask was made from {said}"]


def _make_mask(person: KnownPerson, hidden: Image.Image | None, options: Options) -> tuple[Mask, str]:
    """A mask from the first of agnostic picture, box, label map and joints that is there, and its name."""
    photo = person.photo
    if hidden is not None:
        area = np.asarray(mask_from_agnostic(photo, hidden.resize(photo.size))) >= 128
        checks.check_agnostic(hidden, area, photo, options.limits)
        return area, "the agnostic picture"
    if options.box is not None:
        return mask_from_box(options.box, (photo.height, photo.width)), "the box"
    if person.parse is None and person.pose is not None:
        return mask_from_pose(person.pose, part=options.part), "the joints alone"
    if person.parse is None:
        raise InputError("mask", "is absent, and nothing to make it from was given", "where the person is repainted", NO_MASK)
    area = mask_from_parse(person.parse, person.pose, labels=options.labels, part=options.part)
    return area, "the label map" + " and joints" * bool(person.pose)
