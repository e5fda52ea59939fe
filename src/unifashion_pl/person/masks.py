"""Where a person is repainted: masks from label maps and joints, from boxes or from agnostic pictures, without any further model.

Inside the library and in public a mask says True, white = repaint (design: one polarity; a network's own is applied at its door).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from unifashion_pl.data.decode import to_rgb
from unifashion_pl.person.pose import Pose
from unifashion_pl.person.problems import InputError, percent

Mask = NDArray[np.bool_]
Labels = Literal["lip", "atr"]
Part = Literal["upper_body", "lower_body", "dresses"]
GREY, TOLERANCE = 128, 8

#: Label maps: LIP as in VITON-HD (10 is the neck there), ATR as in Dress Code. What is never repainted: face and glasses.
LIP = {
    "face": (4, 13), "hair": (1, 2), "upper": (5, 7), "dress": (6,), "lower": (9, 12), "neck": (10,),
    "arms": (14, 15), "legs": (16, 17, 8), "shoes": (18, 19),
}  # fmt: skip
ATR = {
    "face": (3, 11), "hair": (1, 2), "upper": (4, 17), "dress": (7,), "lower": (5, 6, 8), "neck": (),
    "arms": (14, 15), "legs": (12, 13), "shoes": (9, 10),
}  # fmt: skip
LABELS = {"lip": (LIP, 19), "atr": (ATR, 17)}
OTHER: dict[Labels, Labels] = {"lip": "atr", "atr": "lip"}
GLASSES = {"lip": 4, "atr": 3}
#: Groups of which the first lies above the second in a picture of a standing person.
ABOVE = (("face", "clothes"), ("neck", "clothes"), ("clothes", "legs"), ("clothes", "shoes"))
CLOTHES = ("upper", "dress", "lower")
#: Shares of a map: a group below the first is too small to tell anything, glasses above the second are none.
TINY, LARGE_GLASSES = 0.001, 0.02
#: part -> (groups that are repainted, groups that stay whatever the joints say).
RULES: dict[Part, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "upper_body": (("upper", "dress", "neck", "arms"), ("face", "lower", "legs", "shoes")),
    "lower_body": (("lower", "dress", "legs"), ("face", "hair", "upper", "arms", "shoes")),
    "dresses": (("upper", "dress", "lower", "neck", "arms", "legs"), ("face", "shoes")),
}
SIDES = ("right", "left")
FACE = ("nose", "right_eye", "left_eye", "right_ear", "left_ear")
#: Share of the shoulders' width by which a mask from joints alone is wider than body and limbs.
LOOSE = 0.2
ARMS = (("right_shoulder", "right_elbow", "right_wrist"), ("left_shoulder", "left_elbow", "left_wrist"))
LEGS = (("right_hip", "right_knee", "right_ankle"), ("left_hip", "left_knee", "left_ankle"))


def label_map(parse: Image.Image | NDArray[Any], labels: Labels) -> NDArray[np.uint8]:
    """(h, w) labels of a palette or grey picture.

    Raises:
        InputError: a coloured picture, whose colours are no labels, labels beyond the scheme's, or a map of the other scheme.
    """
    last, other = LABELS[labels][1], OTHER[labels]
    if isinstance(parse, Image.Image) and parse.mode not in ("P", "L", "1", "I", "I;16"):
        raise InputError(
            "parse", f"is {parse.mode}, a coloured picture", "a label map: a palette or grey PNG with one label per pixel",
            "Take the file as the dataset has it; opening and saving palettes as RGB loses the labels",
        )  # fmt: skip
    values = np.asarray(parse)
    if values.ndim != 2 or values.max(initial=0) > last or not len(np.unique(values)) > 1:
        span = f"values {values.min()}…{values.max()}" if values.size else "no values"
        found = f"has the shape {values.shape} and {span}"
        raise InputError("parse", found, f"labels 0…{last} of {labels.upper()}", f"Pass labels={other!r}, or another file")
    values = values.astype(np.uint8)
    if (wrong := contradictions(values, labels)) and values.max() <= LABELS[other][1] and not contradictions(values, other):
        raise InputError(
            "parse", f"looks like labels of {other.upper()} read as {labels.upper()}: {', '.join(wrong)}", f"labels of {labels.upper()}",
            f"Pass labels={other!r}, or another file",
        )  # fmt: skip
    return values


def contradictions(values: NDArray[np.uint8], labels: Labels) -> list[str]:
    """What is odd about a person whose labels (h, w) are read in a scheme, e.g. legs above clothes; empty for a standing person."""
    groups = LABELS[labels][0]
    places = {name: np.isin(values, _of(groups, (name,))) for name in ("face", "neck", "legs", "shoes")}
    places["clothes"] = np.isin(values, _of(groups, CLOTHES))
    rows = {name: float(np.nonzero(place)[0].mean()) for name, place in places.items() if place.mean() > TINY}
    odd = [f"{low} above {high}" for high, low in ABOVE if high in rows and low in rows and rows[low] < rows[high]]
    share = float((values == GLASSES[labels]).mean())
    return odd + [f"glasses on {percent(share)} of the picture"] * (share > LARGE_GLASSES)


def mask_from_parse(parse: NDArray[np.uint8], pose: Pose | None, *, labels: Labels = "lip", part: Part = "upper_body") -> Mask:
    """What to repaint so that a garment of another shape can take the place of the worn one, (h, w) bool.

    The worn garment's labels and bare limbs, and from the joints a torso (hips), limbs (lines with round ends) and a box at the neck,
    so that long sleeves can follow short ones; widened by a tenth of the shoulders' width. Face, and what the part does not cover, stay.
    The recipe (torso, arm lines, neck box; face and the other half stay) is VITON-HD's and MGD's.

    Raises:
        InputError: the joints lack shoulders or hips, or nothing of the part is worn.
    """
    groups, _ = LABELS[labels]
    painted, kept = RULES[part]
    worn = np.isin(parse, _of(groups, painted))
    # without joints the garment alone says where it may be; with them a map without it still shows the limbs
    if not worn.any() or (pose is None and not np.isin(parse, _of(groups, CLOTHES)).any()):
        raise InputError(
            "parse", f"shows no garment of {part} (labels {', '.join(map(str, np.unique(parse)))})", f"labels of {', '.join(painted)}",
            f"Is it the agnostic label map, labels={labels!r} the right scheme, part={part!r} the right garment? Or pass mask= or box=",
        )  # fmt: skip
    if pose is None:
        width = np.ptp(np.flatnonzero(worn.any(0))) + 1
        grown = _widen(worn, 0.06 * width)
    else:
        pose = pose.scaled((parse.shape[0], parse.shape[1]))
        unit = unit_of(pose, part)
        grown = _widen(worn, 0.10 * unit) | _body(pose, part, unit)
    return grown & ~np.isin(parse, _of(groups, kept))


def mask_from_pose(pose: Pose, *, part: Part = "upper_body") -> Mask:
    """What to repaint of a person of whom the joints alone are known, (h, w) bool: torso, limbs and neck, wider than from a label map.

    Where the worn garment ends is not known: what hangs far from the body, as wide sleeves and skirts do, is not covered. The head stays,
    an ellipse around nose, eyes and ears.

    Raises:
        InputError: the joints of the part were not found.
    """
    unit = unit_of(pose, part)
    return _widen(_body(pose, part, unit), LOOSE * unit) & ~_head(pose, unit)


def _head(pose: Pose, unit: float) -> Mask:
    """An ellipse around what was found of a face; a head is about half as wide as the shoulders' joints lie apart."""
    canvas = Image.new("L", (pose.size[1], pose.size[0]))
    found = pose.joints()
    if face := [found[name] for name in FACE if name in found]:
        x, y = np.mean(face, 0)
        ImageDraw.Draw(canvas).ellipse((x - 0.27 * unit, y - 0.45 * unit, x + 0.27 * unit, y + 0.33 * unit), fill=255)
    return np.asarray(canvas) > 0


def _widen(mask: Mask, radius: float) -> Mask:
    """By ``radius`` pixels (rounded) to all sides, squarely."""
    wide: Mask = ndimage.maximum_filter(mask, 2 * round(radius) + 1)
    return wide


def _of(groups: dict[str, tuple[int, ...]], names: Iterable[str]) -> list[int]:
    return [label for name in names for label in groups[name]]


def unit_of(pose: Pose, part: Part) -> float:
    """The shoulders' width in pixels, the unit of everything that is drawn around joints; for legs alone the hips' or thighs' tell it.

    Raises:
        InputError: the joints of the part were not found.
    """
    found = pose.joints()
    hips = [np.array(found[n]) for n in ("right_hip", "left_hip") if n in found]
    shoulders = [np.array(found[n]) for n in ("right_shoulder", "left_shoulder") if n in found]
    if len(shoulders) == 2 and hips:
        height = np.linalg.norm(np.mean(shoulders, 0) - np.mean(hips, 0))
        # seen from the side, shoulders nearly coincide: the torso's height says how wide they are
        return float(max(np.linalg.norm(shoulders[0] - shoulders[1]), 0.6 * height))
    if part == "lower_body" and hips:
        pairs = [(f"{side}_hip", f"{side}_knee") for side in SIDES]
        wide = [0.7 * float(np.linalg.norm(np.array(found[a]) - found[b])) for a, b in pairs if a in found and b in found]
        wide += [1.5 * float(np.linalg.norm(hips[0] - hips[1]))] if len(hips) == 2 else []
        if wide:
            return max(wide)
    lacking = [] if len(shoulders) == 2 or part == "lower_body" else ["shoulders"]
    lacking += [] if hips else ["hips"]
    expected = "shoulders and hips, from which the mask is made"
    raise InputError("pose", f"lacks {' and '.join(lacking or ['knees'])}", expected, "Pass mask= or box= instead")


def _body(pose: Pose, part: Part, unit: float) -> Mask:
    """Torso, limbs, a box at the neck and boxes at the hips, as far as the part has them."""
    canvas = Image.new("L", (pose.size[1], pose.size[0]))
    draw, found = ImageDraw.Draw(canvas), pose.joints()
    hips = [found[n] for n in ("right_hip", "left_hip") if n in found]
    limbs = [
        *([(limb, 0.42) for limb in ARMS] if part != "lower_body" else []),
        *([(limb, 0.55) for limb in LEGS] if part != "upper_body" else []),
    ]
    for limb, width in limbs:
        _line(draw, [found[n] for n in limb if n in found], width * unit)
    if part != "lower_body":
        right, left = found["right_shoulder"], found["left_shoulder"]
        corners = [right, left, *reversed(hips * (3 - len(hips)))]
        draw.polygon(corners, fill=255)
        _line(draw, [*corners, right], 0.35 * unit)
        x, y = found.get("neck") or tuple(np.mean([right, left], 0))
        draw.rectangle((x - 0.25 * unit, y - 0.30 * unit, x + 0.25 * unit, y + 0.20 * unit), fill=255)
    for x, y in hips if part != "upper_body" else ():
        draw.rectangle((x - 0.35 * unit, y - 0.25 * unit, x + 0.35 * unit, y + 0.3 * unit), fill=255)
    return np.asarray(canvas) > 0


def _line(draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], width: float) -> None:
    radius = max(1.0, width / 2)
    if len(points) > 1:
        draw.line(list(points), fill=255, width=max(1, round(width)))
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


def mask_from_box(box: Sequence[float], size: tuple[int, int]) -> Mask:
    """(h, w) bool, True inside ``box`` = (left, top, right, bottom) in pixels.

    Raises:
        InputError: no such box, or it lies outside of the picture.
    """
    height, width = size
    found = f"is {tuple(box)} on a person of {width}×{height}"
    if len(box) != 4 or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise InputError("box", found, "(left, top, right, bottom) in pixels of the person, inside of it", "Mend the box")
    mask = np.zeros(size, bool)
    left, top, right, bottom = (round(v) for v in box)
    mask[top:bottom, left:right] = True
    return mask


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what is True: a mask that does not tell the worn garment's outline (MGD's box mask)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def mask_from_agnostic(person: Image.Image, agnostic: Image.Image) -> Image.Image:
    """L, 255 = repaint: grey 128 ± 8 in the agnostic picture, another colour on the person, small gaps closed."""
    shown, hidden = (np.asarray(to_rgb(image), np.int16) for image in (person, agnostic))
    grey = (abs(hidden - GREY) <= TOLERANCE).all(-1)
    changed = (abs(hidden - shown) > TOLERANCE).any(-1)
    near = Image.fromarray((grey & changed).astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(5))
    return Image.fromarray((grey & (np.asarray(near) > 0)).astype(np.uint8) * 255).filter(ImageFilter.MedianFilter(5))
