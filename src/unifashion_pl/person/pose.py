"""Body joints: OpenPose's BODY-25 and COCO-18 in the files of VITON-HD, Dress Code and our shards, and skeletons drawn from them."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from PIL import Image, ImageDraw

from unifashion_pl.person.problems import LINE, InputError
from unifashion_pl.reading import FormatError, converted, read_json

Format = Literal["body25", "coco18"]
Point = tuple[float, float, float]

#: Joints of COCO-18 in order; "right" is the person's.
NAMES = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "right_hip",
    "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
FORMATS: dict[int, Format] = {25: "body25", 18: "coco18"}
#: BODY-25 has the middle of the hips at 8 and six points of the feet after the ears; without them it is COCO-18.
MIDDLE_HIP = 8
#: Largest coordinate and size, pixels; beyond it a file is damaged.
FARTHEST = 50_000
#: Parts of the body that DensePose tells apart.
PARTS = 24
LIMBS = (
    ("nose", "neck"), ("neck", "right_shoulder"), ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
    ("neck", "left_shoulder"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"), ("neck", "right_hip"),
    ("right_hip", "right_knee"), ("right_knee", "right_ankle"), ("neck", "left_hip"), ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"), ("nose", "right_eye"), ("nose", "left_eye"), ("right_eye", "right_ear"), ("left_eye", "left_ear"),
)  # fmt: skip
EXPECTED = "25 joints of BODY-25 or 18 of COCO-18 as (x, y, confidence): an OpenPose JSON file, its content, or an array"


@dataclass(frozen=True)
class Pose:
    """Joints in pixels of a picture.

    Attributes:
        format: ``body25`` or ``coco18``.
        size: (h, w) of the picture, pixels.
        points: (x, y, confidence) of every joint, None where it was not found or lies outside of the picture.
    """

    format: Format
    size: tuple[int, int]
    points: list[Point | None]

    def joints(self) -> dict[str, tuple[float, float]]:
        """Name -> (x, y) of the joints of COCO-18 that were found."""
        return {name: point[:2] for name, point in zip(NAMES, self.coco18().points) if point is not None}

    def coco18(self) -> Pose:
        """The same joints as COCO-18."""
        if self.format == "coco18":
            return self
        return Pose("coco18", self.size, [*self.points[:MIDDLE_HIP], *self.points[MIDDLE_HIP + 1 : MIDDLE_HIP + 11]])

    def scaled(self, size: tuple[int, int]) -> Pose:
        """The same joints on a picture of another size (h, w)."""
        sy, sx = size[0] / self.size[0], size[1] / self.size[1]
        return Pose(self.format, size, [None if p is None else (p[0] * sx, p[1] * sy, p[2]) for p in self.points])

    def torso(self) -> tuple[float, float] | None:
        """(x, y) of the middle of shoulders and hips, None unless one of either side is known."""
        found = self.joints()
        shoulders = [found[n] for n in ("right_shoulder", "left_shoulder") if n in found]
        hips = [found[n] for n in ("right_hip", "left_hip") if n in found]
        if not shoulders or not hips:
            return None
        top, bottom = np.mean(shoulders, 0), np.mean(hips, 0)
        return float(top[0] + bottom[0]) / 2, float(top[1] + bottom[1]) / 2

    def as_dict(self) -> dict[str, Any]:
        """Content of a shard's ``pose.json``."""
        return {"format": self.format, "size": list(self.size), "points": [None if p is None else list(p) for p in self.points]}


PoseLike = str | Path | Mapping[str, Any] | Sequence[Any] | np.ndarray[Any, Any] | Pose


def read_pose(value: PoseLike, size: tuple[int, int], *, pose_size: tuple[int, int] | None = None) -> Pose:
    """Joints of a person, in pixels of its picture.

    Understood are OpenPose's JSON (the first person), Dress Code's (``keypoints``), the shards' ``pose.json``, and arrays of
    (25 or 18, 2…4). A joint with confidence 0, below 0 or on the upper edge (where Dress Code puts heads that were cut off) is absent.

    Args:
        size: (h, w) of the person's picture, pixels.
        pose_size: (h, w) that the coordinates refer to, if it is another; (1, 1) for coordinates between 0 and 1.

    Raises:
        InputError: not such a file, another number of joints, or coordinates that do not fit the picture.
    """
    try:
        return _read_pose(value, size, pose_size)
    except InputError as error:
        error.file = Path(value) if isinstance(value, str | Path) else None
        raise


def _read_pose(value: PoseLike, size: tuple[int, int], pose_size: tuple[int, int] | None) -> Pose:
    if isinstance(value, Pose):
        return value.scaled(size) if value.size != size else value
    content = _load(value)
    if isinstance(content, Mapping) and "size" in content and pose_size is None:
        pose_size = _size_of(content["size"])
    rows = _rows(content)
    if len(rows) not in FORMATS:
        raise InputError(
            "pose", f"has {len(rows)} joints", EXPECTED, "Name a file of another pose estimator only after converting it"
        )
    frame = pose_size or size
    _check_frame(rows, size, pose_size)
    sy, sx = size[0] / frame[0], size[1] / frame[1]
    points = [None if row is None else (row[0] * sx, row[1] * sy, row[2]) for row in rows]
    return Pose(FORMATS[len(rows)], size, points)


class OpenPosePerson(TypedDict):
    """A person of an OpenPose file; what else it says is not read."""

    pose_keypoints_2d: list[float]


#: Content of a file under its key, see :func:`read_pose`.
_KINDS = {"people": list[OpenPosePerson], "points": list[list[float] | None], "keypoints": list[list[float] | None]}


def _load(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    path = Path(value)
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            return converted(content, list[list[float] | None], str(path))
        known = {key: kind for key, kind in _KINDS.items() if key in content}
        return content | {key: converted(content[key], kind, f"{path}: {key}") for key, kind in known.items()}
    except FileNotFoundError:
        raise
    except (OSError, FormatError) as error:
        found = f"cannot be read: {str(error).replace(str(path), path.name)}"
        raise InputError("pose", found, EXPECTED, "A picture of the pose goes into densepose=") from error


def _size_of(value: Any) -> tuple[int, int]:
    found, cause = f"has the size {str(value)[:80]}", None
    try:
        height, width = map(int, value)
        if 0 < height <= FARTHEST and 0 < width <= FARTHEST:
            return height, width
    except (TypeError, ValueError, OverflowError) as error:
        cause = error
    raise InputError("pose", found, f"[height, width] of 1 to {FARTHEST:,} pixels", "Look into the file") from cause


def _rows(content: Any) -> list[Point | None]:
    given = content if isinstance(content, Mapping) else {"points": content}
    if "people" in given and not given["people"]:
        raise InputError("pose", "nobody was found in the picture", "one person", "Leave pose out")
    try:
        if "people" in given:
            table = np.asarray(given["people"][0]["pose_keypoints_2d"], np.float64).reshape(-1, 3)
        else:
            inner = given["points"] if "points" in given else given["keypoints"]
            table = np.asarray([[0.0, 0.0, 0.0] if row is None else list(row)[:3] for row in inner], np.float64)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise InputError(
            "pose", f"is no list of joints ({type(error).__name__}: {error})", EXPECTED, "Look into the file"
        ) from error
    if table.ndim != 2 or table.shape[1] not in (2, 3):
        raise InputError("pose", f"has the shape {table.shape}", EXPECTED, "Look into the file")
    if not (np.abs(table) <= FARTHEST).all():
        where = f"numbers that are not finite or beyond {FARTHEST:,}"
        raise InputError("pose", f"has {where}", EXPECTED, "Look into the file")
    if table.shape[1] == 2:
        table = np.concatenate([table, (table > 0).all(1, keepdims=True)], 1)
    return [None if c <= 0 or y <= 0 or x < 0 else (float(x), float(y), float(c)) for x, y, c in table]


def _check_frame(rows: Sequence[Point | None], size: tuple[int, int], pose_size: tuple[int, int] | None) -> None:
    """Coordinates beyond the picture, or in its upper left quarter only, refer to another size."""
    found = np.array([row[:2] for row in rows if row is not None])
    if not len(found):
        raise InputError("pose", "has no joint with a confidence above 0", "shoulders and hips at least", "Leave pose out")
    height, width = pose_size or size
    right, bottom = found.max(0)
    said = f"keypoints end at ({right:.0f}, {bottom:.0f}) on {width}×{height}"
    inside = f"coordinates in pixels of the person, {size[1]}×{size[0]}"
    if right > 1.02 * width or bottom > 1.02 * height:
        cure = "Pass pose_size=(height, width) of the picture they were found in"
        raise InputError("pose", said, inside, cure, _dots(found, (height, width)))
    if pose_size is None and right <= width / 2 and bottom <= height / 2:
        if right <= 1 and bottom <= 1:
            raise InputError("pose", f"keypoints end at ({right:.2f}, {bottom:.2f})", inside, "Pass pose_size=(1, 1)")
        half = f"{width // 2}×{height // 2} coordinates? Pass pose_size=({height // 2}, {width // 2}), or pose_size={size} if they are right"
        raise InputError("pose", said, inside, half, _dots(found, size))


def _dots(points: np.ndarray[Any, Any], size: tuple[int, int]) -> Image.Image:
    canvas = Image.new(
        "RGB", (max(size[1], int(points[:, 0].max()) + 8), max(size[0], int(points[:, 1].max()) + 8)), (90, 90, 90)
    )
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, size[1] - 1, size[0] - 1), fill=(0, 0, 0))
    radius = max(2, size[1] // 100)
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=LINE)
    return canvas


def limb_colour(number: int) -> tuple[int, int, int]:
    """A hue of its own for each of :data:`LIMBS`, so that sides and body parts can be told apart."""
    red, green, blue = colorsys.hsv_to_rgb(number / len(LIMBS), 1.0, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_skeleton(pose: Pose, size: tuple[int, int] | None = None) -> Image.Image:
    """Coloured limbs and white joints on black, as an RGB picture of ``size`` (h, w); default the pose's own.

    This is what stands in for DensePose in the pose channels where only joints are known.
    """
    pose = pose if size is None else pose.scaled(size)
    height, width = pose.size
    canvas = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(canvas)
    found = pose.joints()
    thick = max(2, round(max(height, width) / 80))
    for number, (a, b) in enumerate(LIMBS):
        if a in found and b in found:
            draw.line([found[a], found[b]], fill=limb_colour(number), width=thick)
    radius = thick / 2
    for x, y in found.values():
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255))
    return canvas


def body_part_colours(picture: Image.Image) -> Image.Image | None:
    """A map of DensePose's labels (0 backdrop, 1…24 parts) as an RGB picture on black, None if it is coloured already.

    Dress Code delivers labels, VITON-HD colours; a model needs one of both.
    """
    if picture.mode not in ("P", "L"):
        return None
    labels = np.asarray(picture)
    if labels.max(initial=0) > PARTS:
        return None
    hues = [(0, 0, 0), *((np.array(colorsys.hsv_to_rgb(k / PARTS, 0.9, 0.55 + 0.4 * (k % 2))) * 255) for k in range(PARTS))]
    return Image.fromarray(np.array(hues, np.uint8)[labels])
