"""What is known about a person: options, joints, masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from person.drawn import opened, tryon


def test_unknown_inputs_are_named(files: dict[str, Path]) -> None:
    with pytest.raises(TypeError, match="unknown input 'masks'.*; known are size, image_size, densepose"):
        tryon(files, masks=files["mask"])


def test_a_box_and_an_agnostic_picture_make_a_mask(files: dict[str, Path]) -> None:
    box = tryon(files, box=(40, 60, 150, 220))
    assert box.mask[60:220, 40:150].all()
    assert box.mask.sum() == 160 * 110
    truth = np.asarray(opened(files["mask"])) >= 128
    again = tryon(files, "agnostic")
    assert (again.mask == truth).mean() > 0.97


def test_a_skeleton_stands_in_for_body_parts(files: dict[str, Path]) -> None:
    drawn, given = tryon(files, "mask", "pose"), tryon(files, "mask", "pose", "densepose")
    assert 0 < (drawn.pose.amax(1) > 0).float().mean() < 0.15 < (given.pose.amax(1) > 16).float().mean()
