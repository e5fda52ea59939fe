"""A stand-in file of RTMO's form, which gives joints that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unifashion_pl.person.detect import COCO

#: Joints of a standing person, as shares of the square.
PLACES = {
    "nose": (0.3, 0.1), "left_eye": (0.32, 0.09), "right_eye": (0.28, 0.09), "left_shoulder": (0.4, 0.25), "right_shoulder": (0.2, 0.25),
    "left_elbow": (0.42, 0.4), "right_elbow": (0.18, 0.4), "left_wrist": (0.43, 0.5), "right_wrist": (0.17, 0.5),
    "left_hip": (0.35, 0.55), "right_hip": (0.25, 0.55), "left_knee": (0.35, 0.75), "right_knee": (0.25, 0.75),
}  # fmt: skip
SIDE = 64


def stand_in(folder: Path, people: list[tuple[float, float, float]], missing: tuple[str, ...] = (), **form: Any) -> Path:
    """A file that gives fixed joints, shifted for each person, whose confidences are the picture's first blue value / 255 times each one's.

    Args:
        people: confidence, shift to the right and size of each, shares of the square.
    """
    onnx = pytest.importorskip("onnx", reason="makes the stand-in")
    helper, numbers = onnx.helper, onnx.numpy_helper
    boxes, joints = [], []
    for sure, shift, scale in people:
        rows = [(*PLACES.get(name, (0, 0)), 0.9 if name in PLACES and name not in missing else 0.1) for name in COCO]
        table = np.array(rows) * (scale, scale, 1) + (shift, 0, 0)
        joints.append(table * (SIDE, SIDE, 1))
        boxes.append([shift * SIDE, 0, (shift + 0.6 * scale) * SIDE, scale * SIDE, sure])
    scores = np.zeros((1, len(people), 5), np.float32)
    scores[..., 4] = 1
    known = {"boxes": np.array(boxes, np.float32)[None], "joints": np.array(joints, np.float32)[None], "only": scores}
    known |= {"first": np.array([0, 0, 0, 0], np.int64), "after": np.array([1, 1, 1, 1], np.int64), "top": np.float32([255])}
    known |= {"shape": np.array([1, 1, 1], np.int64), "one": np.float32([1])}
    nodes = [
        helper.make_node("Slice", ["input", "first", "after"], ["corner"]),
        helper.make_node("Reshape", ["corner", "shape"], ["blue"]),
        helper.make_node("Div", ["blue", "top"], ["share"]),
        helper.make_node("Sub", ["share", "one"], ["less"]),
        helper.make_node("Mul", ["less", "only"], ["change"]),
        helper.make_node("Mul", ["change", "boxes"], ["lower"]),
        helper.make_node("Add", ["boxes", "lower"], ["dets"]),
        helper.make_node("Identity", ["joints"], ["keypoints"]),
    ]
    kind = onnx.TensorProto.FLOAT
    given = [helper.make_tensor_value_info("input", kind, form.get("given", [1, 3, SIDE, SIDE]))]
    made = [
        helper.make_tensor_value_info("dets", kind, [1, "N", 5]),
        helper.make_tensor_value_info("keypoints", kind, [1, "N", 17, 3]),
    ]
    graph = helper.make_graph(nodes, "stand-in", given, made, [numbers.from_array(np.asarray(v), k) for k, v in known.items()])
    path = folder / "rtmo.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
