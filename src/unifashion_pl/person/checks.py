"""What inputs of try-on and design have to be: polarity, area, size, aspect, and that they belong to each other.

Every check names what it found, what it expected and the cure, and shows it in a picture. Thresholds stand in :class:`Limits`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unifashion_pl.arguments import asked_at
from unifashion_pl.data.decode import to_rgb
from unifashion_pl.person.masks import GREY, Mask
from unifashion_pl.person.pose import Pose
from unifashion_pl.person.problems import LINE, InputError, overlay, percent, side_by_side, stretched
from unifashion_pl.person.sketch import garment_mask, plausible


@dataclass(frozen=True)
class Limits:
    """Thresholds of the checks; judgement, not measurement: replace what does not fit your pictures.

    Attributes:
        aspect: relative difference of sides' ratios.
        short_side: pixels below which a picture is warned about.
        near, hard: a mask pixel within ``near`` of 0 or 255 is hard; at least this share must be.
        area, usual_area: shares of a mask, beyond which it is refused or warned about.
        grey, kept: mean distance from grey 128 inside an agnostic picture's hole, and from the person outside of it.
        densepose_black: smallest share of black in a picture of body parts; ``silhouette``: its overlap with the parsed person (IoU).
        strokes: share of bright pixels in a sketch; above ``inverted`` it is the wrong way round.
        cloth_area: smallest share of a garment mask.
    """

    aspect: float = 0.01
    short_side: int = 256
    near: int = 40
    hard: float = 0.99
    area: tuple[float, float] = (0.01, 0.80)
    usual_area: tuple[float, float] = (0.08, 0.70)
    grey: float = 8.0
    kept: float = 8.0
    densepose_black: float = 0.10
    silhouette: float = 0.6
    strokes: tuple[float, float] = (0.002, 0.30)
    inverted: float = 0.50
    cloth_area: float = 0.156


def size_of(image: Image.Image) -> str:
    """``768×1024`` (width × height)."""
    return f"{image.width}×{image.height}"


def warn(sentence: str) -> None:
    """A warning about an input that is used nevertheless."""
    warnings.warn(sentence, stacklevel=asked_at())


def check_aspect(subject: str, image: Image.Image, person: Image.Image, limits: Limits) -> None:
    """A picture that lies over the person has the person's proportions.

    Raises:
        InputError: other proportions.
    """
    ratio = (image.width / image.height) / (person.width / person.height)
    if abs(ratio - 1) > limits.aspect:
        raise InputError(
            subject, f"is {size_of(image)}, person {size_of(person)}", "the same proportions", f"Another picture's {subject}?",
            side_by_side(person, image),
        )  # fmt: skip


def hard_mask(image: Image.Image, person: Image.Image, limits: Limits, *, invert: bool, threshold: int | None) -> Mask:
    """(h, w) bool in the size of the person from a picture of a mask in any mode.

    Raises:
        InputError: other proportions than the person, or grey values.
    """
    if image.mode in ("RGBA", "LA"):
        image = to_rgb(_without_alpha(image))
    grey = image.convert("L")
    check_aspect("mask", grey, person, limits)
    values = np.asarray(grey)
    if threshold is None:
        soft = (values > limits.near) & (values < 255 - limits.near)
        if soft.mean() > 1 - limits.hard:
            raise InputError(
                "mask", f"is grey, not hard: {percent(soft.mean())} of it is neither black nor white",
                "white where the person is repainted, black elsewhere", "Pass threshold=128 to cut a soft mask in the middle",
                overlay(person, soft),
            )  # fmt: skip
    fitted = grey.resize(person.size, Image.Resampling.NEAREST)
    mask = np.asarray(fitted) >= (threshold if threshold is not None else 128)
    return ~mask if invert else mask


def _without_alpha(image: Image.Image) -> Image.Image:
    """Masks painted in an editor: where alpha varies it is the mask, else the colours are."""
    alpha = image.getchannel("A")
    low, high = alpha.getextrema()
    if isinstance(low, tuple) or low == high:
        return image.convert("RGB") if image.mode == "RGBA" else image.convert("L")
    colours = np.asarray(image.convert("RGB"))[np.asarray(alpha) > 0]
    return alpha if len(np.unique(colours)) <= 3 else image


def check_mask(mask: Mask, person: Image.Image, limits: Limits, pose: Pose | None = None, *, given: bool = True) -> None:
    """Area, and that the torso is inside.

    Args:
        given: whether a user gave it (then ``invert_mask=True`` may be the cure) or it was made.

    Raises:
        InputError: nothing, too little or too much is white, or the torso is left out.
    """
    share = float(mask.mean())
    torso = pose.torso() if pose is not None else None
    covered = torso is None or _at(mask, torso)
    low, high = limits.area
    # hardly anybody wants the picture's border repainted: this tells without joints
    around = float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()) > 0.8
    inverse_fits = low <= 1 - share <= high and (around if torso is None else not covered)
    where = " and nearly the whole border" if torso is None and around else ""
    if torso is not None and not covered:
        where = f" and leaves out the torso at ({torso[0]:.0f}, {torso[1]:.0f})"
    if low <= share <= high and covered and not (given and torso is None and inverse_fits):
        if not limits.usual_area[0] <= share <= limits.usual_area[1]:
            usual = " to ".join(percent(s) for s in limits.usual_area)
            warn(f"mask: white covers {percent(share)} of the person; usual are {usual}")
        return
    found = f"{'looks inverted' if given and inverse_fits else 'does not fit'}: white covers {percent(share)}{where}"
    expected = f"white marks what is repainted, {percent(low)} to {percent(high)} of the picture"
    expected += " with the torso" if torso is not None else ""
    cure = "Pass invert_mask=True" if given and inverse_fits else "Draw the mask over what is to be repainted"
    picture = overlay(person, mask)
    if torso is not None:
        radius = max(3, picture.width // 50)
        box = (torso[0] - radius, torso[1] - radius, torso[0] + radius, torso[1] + radius)
        ImageDraw.Draw(picture).ellipse(box, outline=LINE, width=max(2, radius // 3))
    raise InputError("mask", found, expected, cure, picture)


def _at(mask: Mask, point: tuple[float, float]) -> bool:
    """Whether any pixel of a small square around a point is inside."""
    radius = max(1, min(mask.shape) // 40)
    x, y = round(point[0]), round(point[1])
    return bool(mask[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].any())


def check_agnostic(agnostic: Image.Image, mask: Mask, person: Image.Image, limits: Limits) -> None:
    """Grey inside of the mask, the person outside.

    Raises:
        InputError: another hole than the mask's, or another person.
    """
    hidden, shown = (np.asarray(to_rgb(i), np.int16) for i in (agnostic.resize(person.size), person))
    inside = float(abs(hidden[mask] - GREY).mean()) if mask.any() else 0.0
    outside = float(abs(hidden - shown)[~mask].mean()) if not mask.all() else 0.0
    if inside >= limits.grey:
        raise InputError(
            "agnostic", f"is not grey inside of the mask: {inside:.0f} of 255 from {GREY} on average",
            f"grey {GREY} where the mask is white", "Another hole than the mask's? Leave agnostic out: it is made from person and mask",
            side_by_side(to_rgb(agnostic), overlay(person, mask)),
        )  # fmt: skip
    if outside >= limits.kept:
        raise InputError(
            "agnostic", f"differs from the person outside of the mask by {outside:.0f} of 255 on average", "the person there",
            "Another person's? Leave agnostic out: it is made from person and mask", side_by_side(to_rgb(agnostic), person),
        )  # fmt: skip


def check_densepose(densepose: Image.Image, person: Image.Image, silhouette: Mask | None, limits: Limits) -> None:
    """Body parts on black that lie on the person.

    Args:
        silhouette: (h, w) where the parse map shows the person, or None.

    Raises:
        InputError: other proportions, no black backdrop, or another silhouette.
    """
    check_aspect("densepose", densepose, person, limits)
    parts = np.asarray(to_rgb(densepose).resize(person.size, Image.Resampling.NEAREST)).max(-1) > 16
    black = 1 - float(parts.mean())
    if black <= limits.densepose_black:
        raise InputError(
            "densepose", f"has {percent(black)} black", "coloured body parts on black", "Is this a photo, or an overlay on the photo?",
            side_by_side(person, to_rgb(densepose)),
        )  # fmt: skip
    if silhouette is not None:
        overlap = _overlap(parts, silhouette)
        if overlap <= limits.silhouette:
            raise InputError(
                "densepose", f"covers {percent(overlap)} of what it and the parsed person cover together",
                f"more than {percent(limits.silhouette)}", "Another person's?", side_by_side(to_rgb(densepose), overlay(person, silhouette)),
            )  # fmt: skip


def check_sketch(sketch: Image.Image, limits: Limits, *, invert: bool) -> Image.Image:
    """The sketch as L, light strokes on black.

    Raises:
        InputError: inverted, empty, or so full that it is no drawing.
    """
    grey = to_rgb(sketch).convert("L")
    if invert:
        grey = Image.eval(grey, lambda value: 255 - value)
    bright = float((np.asarray(grey) >= 128).mean())
    if bright > limits.inverted:
        found = f"looks inverted: {percent(bright)} of it is bright"
        raise InputError("sketch", found, "light strokes on black", "Pass invert_sketch=True", grey)
    if not limits.strokes[0] <= bright <= limits.strokes[1]:
        amount = " to ".join(percent(s) for s in limits.strokes)
        raise InputError(
            "sketch", f"has {percent(bright)} of strokes", f"a line drawing with light strokes on black, {amount} of the picture",
            "Is this the sketch? unifashion_pl.person.sketch.garment_sketch(photo) draws one", grey,
        )  # fmt: skip
    return grey


def usable_garment_mask(image: Image.Image | None, garment: Image.Image, limits: Limits) -> tuple[Mask, str]:
    """The garment's mask (h, w), and a note if it had to be made or was too small to be right.

    Published code takes masks under 15.6 % for broken and uses all ones; a flood fill is tried first.
    """
    said = ""
    if image is not None:
        check_aspect("garment mask", image, garment, limits)
        given = np.asarray(image.convert("L").resize(garment.size, Image.Resampling.NEAREST)) >= 128
        if given.mean() >= limits.cloth_area:
            return given, ""
        said = f"garment mask covers {percent(given.mean())}, less than {percent(limits.cloth_area)}: made anew"
    made = garment_mask(garment)
    if plausible(made):
        return made, said
    whole = "no garment stands out from the backdrop: the whole picture is used"
    return np.ones(made.shape, bool), f"{said}; {whole}" if said else whole


def check_not_swapped(person: Image.Image, garment: Image.Image, silhouette: Mask | None, limits: Limits) -> None:
    """Compare what stands out from the backdrop in both photos with the silhouette that body parts or labels show.

    Raises:
        InputError: the garment's photo fits the silhouette better, clearly, or is the person's.
    """
    if person.size == garment.size and np.array_equal(np.asarray(person), np.asarray(garment)):
        raise InputError(
            "garment", "is the same picture as the person", "the photo of the garment by itself", "Pass the garment's own photo",
            side_by_side(person, garment),
        )  # fmt: skip
    if silhouette is None:
        return
    fits = [_overlap(_foreground(photo, person.size), silhouette) for photo in (person, garment)]
    if fits[1] > fits[0] + 0.2 and fits[1] > limits.silhouette:
        raise InputError(
            "person", f"and garment look swapped: the silhouette lies on {percent(fits[0])} of the person, {percent(fits[1])} of the garment",
            "the photo of the person first, then the photo of the garment", "Swap the two", side_by_side(person, garment),
        )  # fmt: skip


def check_order(person: Image.Image, garment: Image.Image, mask: Mask, pose: Pose | None, limits: Limits) -> None:
    """The same where mask and joints alone tell: a person goes on beyond the mask, and most joints lie on the person.

    Photos in which nothing stands out from a backdrop tell nothing.

    Raises:
        InputError: joints and mask say that the photos are swapped; the mask alone is warned about.
    """
    found = [_foreground(photo, person.size) for photo in (person, garment)]
    if not all(map(plausible, found)):
        return
    beyond = [float((front & ~mask).sum() / front.sum()) for front in found]
    joints = [] if pose is None else list(pose.joints().values())
    on = [sum(_at(front, joint) for joint in joints) for front in found]
    if joints and on[1] > on[0] + 0.1 * len(joints) and beyond[1] > beyond[0] + 0.05:
        raise InputError(
            "person", f"and garment look swapped: {on[0]} of {len(joints)} joints lie on the person, {on[1]} on the garment",
            "the photo of the person first, then the photo of the garment", "Swap the two", side_by_side(person, garment),
        )  # fmt: skip
    if not joints and beyond[0] < 0.1 and beyond[1] > 2 * beyond[0] + 0.1:
        warn(
            f"person and garment may be swapped: {percent(beyond[0])} of what stands out in the person's photo lies outside of the mask, "
            f"{percent(beyond[1])} in the garment's. The photo of the person goes first"
        )


def _foreground(photo: Image.Image, size: tuple[int, int]) -> Mask:
    found = garment_mask(photo.resize((96, max(1, round(96 * photo.height / photo.width)))))
    return stretched(found, size)


def _overlap(a: Mask, b: Mask) -> float:
    """Intersection over union."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def silhouette_of(parse: NDArray[Any] | None, densepose: Image.Image | None, size: tuple[int, int]) -> Mask | None:
    """(h, w) where the person is, from the label map, else from the body parts; ``size`` (w, h)."""
    if parse is not None:
        return stretched(parse > 0, size)
    return None if densepose is None else stretched(np.asarray(to_rgb(densepose)).max(-1) > 16, size)


def check_joints_on(pose: Pose, silhouette: Mask | None, person: Image.Image) -> None:
    """Joints lie on the person.

    Raises:
        InputError: fewer than half of them do.
    """
    if silhouette is None:
        return
    points: Sequence[tuple[float, float]] = list(pose.joints().values())
    inside = sum(_at(silhouette, point) for point in points)
    if inside < len(points) / 2:
        raise InputError(
            "pose", f"has {inside} of {len(points)} joints on the person", "joints of this person", "Another picture's joints?",
            overlay(person, silhouette),
        )  # fmt: skip
