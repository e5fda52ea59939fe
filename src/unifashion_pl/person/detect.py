"""Joints of a person in a photo alone, by RTMO (arXiv 2312.07526) in ONNX; the extra ``pose``.

The form of MMPose's exports is read: a picture (1, 3, S, S), BGR 0…255 in the upper left corner of a square of 114, gives ``dets`` (1, N, 5),
boxes and a confidence, and ``keypoints`` (1, N, 17, 3), COCO's joints with a confidence each, all in pixels of the square. No program comes with
such a file: it is a graph of operators that onnxruntime knows, and none of others is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unifashion_pl.data.decode import to_rgb
from unifashion_pl.person.checks import size_of, warn
from unifashion_pl.person.pictures import ImageLike, read_picture
from unifashion_pl.person.pose import NAMES, Pose
from unifashion_pl.person.problems import InputError, percent

#: COCO's 17 joints in order.
COCO = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
#: Confidence from which on somebody is there, and from which on a joint is.
PERSON, JOINT = 0.5, 0.3
#: Side of the square where a file leaves it open, and the value beside the picture.
SIDE, BESIDE = 640, 114
#: Bytes of a model's file; the largest RTMO has 180 MB.
LARGEST = 1 << 29
NEEDS = "a model of RTMO as ONNX: a picture (1, 3, S, S) in, boxes (1, N, 5) and joints (1, N, 17, 3) out"


class PoseDetector:
    """Finds the joints of the person whom a photo shows.

    Args:
        file: the model.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        FileNotFoundError: no such file. ValueError: no such model.
    """

    def __init__(self, file: str | Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ModuleNotFoundError(
                "joints are found by onnxruntime, which is not installed: pip install 'unifashion-pl[pose]'"
            ) from error
        self.file = Path(file)
        if not self.file.is_file():
            raise FileNotFoundError(f"no model {self.file} to find joints with: `unifashion weights list` names one, rtmo-s")
        if (size := self.file.stat().st_size) > LARGEST:
            raise ValueError(f"{self.file} has {size:,} bytes: expected {NEEDS}, at most {LARGEST:,}")
        try:
            self._session: Any = onnxruntime.InferenceSession(self.file.read_bytes(), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own, one class a fault
            raise ValueError(f"{self.file} cannot be read ({str(error)[:200]}): expected {NEEDS}") from error
        given, made = self._session.get_inputs(), [len(one.shape) for one in self._session.get_outputs()]
        if len(given) != 1 or len(given[0].shape) != 4 or given[0].type != "tensor(float)" or sorted(made) != [3, 4]:
            raise ValueError(f"{self.file} takes {[one.shape for one in given]} and gives {made} axes: expected {NEEDS}")
        side = given[0].shape[2]
        self.side = side if isinstance(side, int) else SIDE

    def __call__(self, photo: ImageLike) -> Pose:
        """The joints of the most prominent person, as COCO-18: the neck is the middle of the shoulders.

        Raises:
            InputError: nobody is found, or neither shoulders nor hips.
        """
        person = to_rgb(read_picture("person", photo))
        pixels, scale = self._square(person)
        boxes, joints = self._found(pixels)
        sure = np.flatnonzero(boxes[:, 4] >= PERSON)
        if not len(sure):
            best = percent(boxes[:, 4].max(initial=0))
            raise InputError(
                "person", f"shows nobody, as far as {self.file.name} sees (at best {best} sure)", "a photo of one person from head to hips",
                "Take another photo, or pass box= or mask=", person,
            )  # fmt: skip
        area = np.prod(np.clip(boxes[sure, 2:4] - boxes[sure, :2], 0, None), 1)
        chosen = sure[int((area * boxes[sure, 4]).argmax())]
        if len(apart := _apart(boxes[sure], boxes[chosen])):
            warn(f"person shows {len(apart) + 1} persons: the most prominent is taken")
        return self._pose(joints[chosen], scale, person)

    def _square(self, person: Image.Image) -> tuple[NDArray[np.float32], float]:
        scale = self.side / max(person.size)
        width, height = (max(1, int(side * scale)) for side in person.size)
        square = np.full((self.side, self.side, 3), BESIDE, np.uint8)
        square[:height, :width] = np.asarray(person.resize((width, height), Image.Resampling.BILINEAR))
        return np.ascontiguousarray(square[..., ::-1].transpose(2, 0, 1)[None], np.float32), scale

    def _found(self, pixels: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """(N, 5) boxes and (N, 17, 3) joints."""
        try:
            made = self._session.run(None, {self._session.get_inputs()[0].name: pixels})
        except Exception as error:
            raise ValueError(f"{self.file} cannot be run ({str(error)[:200]}): expected {NEEDS}") from error
        boxes, joints = sorted(made, key=np.ndim)
        if boxes.shape[2:] != (5,) or joints.shape[2:] != (17, 3) or boxes.shape[:2] != joints.shape[:2]:
            raise ValueError(f"{self.file} gives {boxes.shape} and {joints.shape}: expected {NEEDS}")
        return boxes[0], joints[0]

    def _pose(self, joints: NDArray[Any], scale: float, person: Image.Image) -> Pose:
        found: dict[str, tuple[float, float, float]] = {}
        for name, (x, y, sure) in zip(COCO, joints.astype(float)):
            x, y = x / scale, y / scale
            if sure >= JOINT and 0 <= x < person.width and 0 < y < person.height:
                found[name] = (x, y, min(1.0, sure))
        sides = [found[f"{side}_shoulder"] for side in ("right", "left") if f"{side}_shoulder" in found]
        if not sides and not {"left_hip", "right_hip"} & found.keys():
            raise InputError(
                "person", f"shows {', '.join(found) or 'no joint'} clearly enough ({percent(JOINT)} sure), on {size_of(person)}",
                "shoulders and hips", "Take a photo in which they are seen, or pass box= or mask=", person,
            )  # fmt: skip
        if len(sides) == 2:
            x, y, sure = np.mean(sides, 0).tolist()
            found["neck"] = (x, y, sure)
        return Pose("coco18", (person.height, person.width), [found.get(name) for name in NAMES])


def _apart(boxes: NDArray[Any], chosen: NDArray[Any]) -> NDArray[Any]:
    """Boxes that share less than half of their area with the chosen one: other persons, not the same one once more."""
    low, high = np.maximum(boxes[:, :2], chosen[:2]), np.minimum(boxes[:, 2:4], chosen[2:4])
    shared = np.prod(np.clip(high - low, 0, None), 1)
    return np.flatnonzero(shared < 0.5 * np.prod(np.clip(boxes[:, 2:4] - boxes[:, :2], 1e-9, None), 1))
