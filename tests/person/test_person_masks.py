"""Where a person is repainted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from person.drawn import opened, tryon

from unifashion_pl.person.masks import label_map, mask_from_parse
from unifashion_pl.person.problems import InputError


def test_a_made_mask_covers_the_worn_garment_and_arms_and_leaves_face_and_legs(files: dict[str, Path]) -> None:
    made = tryon(files, "parse", "pose")
    assert made.notes == ["the mask was made from the label map and joints"]
    parse = np.asarray(opened(files["parse"]))
    assert made.mask[np.isin(parse, [5, 7])].mean() > 0.999
    assert made.mask[np.isin(parse, [14, 15])].mean() > 0.95
    assert not made.mask[np.isin(parse, [13, 9, 16, 17, 18, 19])].any()
    assert 0.08 < made.mask.mean() < 0.7
    alone = tryon(files, "parse")
    assert alone.mask[np.isin(parse, [5, 7])].mean() > 0.999
    assert alone.pose is None
    boxed = tryon(files, "parse", "pose", boxed=True)
    rows, columns = np.nonzero(made.mask)
    expected = np.zeros_like(made.mask)
    expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    assert np.array_equal(boxed.mask, expected)


def test_joints_alone_cover_body_and_arms_and_leave_the_face(files: dict[str, Path]) -> None:
    made = tryon(files, "pose")
    assert made.notes == ["the mask was made from the joints alone"]
    parse = np.asarray(opened(files["parse"]))
    assert made.mask[np.isin(parse, [5, 7])].mean() > 0.9
    assert made.mask[np.isin(parse, [14, 15])].mean() > 0.9
    assert made.mask[parse == 13].mean() < 0.1
    assert not made.mask[np.isin(parse, [18, 19])].any()
    assert 0.08 < made.mask.mean() < 0.7
    lower = tryon(files, "pose", part="lower_body").mask
    assert lower[np.isin(parse, [9, 12, 16, 17])].mean() > 0.9
    assert not lower[parse == 13].any()


def test_joints_without_a_torso_are_a_sentence(files: dict[str, Path]) -> None:
    head = [[90.0, 40.0, 1.0], *([None] * 13), [95.0, 35.0, 1.0], [85.0, 35.0, 1.0], None, [80.0, 200.0, 0.9]]
    with pytest.raises(InputError, match="lacks shoulders and hips.*Pass mask= or box="):
        tryon(files, pose=head)


@pytest.mark.parametrize("category", ["dresses", "upper_body", "lower_body"])
def test_atr_labels_of_dress_code_make_masks_of_their_part(root: Path, category: Any) -> None:
    folder = root / "mgd/dresscode" / category
    parse = label_map(opened(next(iter(sorted(folder.glob("label_maps/*.png"))))), "atr")
    mask = mask_from_parse(parse, None, labels="atr", part=category)
    worn = {"dresses": [7], "upper_body": [4], "lower_body": [5, 6]}[category]
    assert mask[np.isin(parse, worn)].mean() > 0.999
    assert not mask[np.isin(parse, [11, 9, 10])].any()


@pytest.mark.parametrize("scheme", ["lip", "atr"])
def test_label_maps_read_in_the_other_scheme_are_refused(root: Path, scheme: Any) -> None:
    pattern = {"lip": "viton-hd/*/image-parse-v3/*.png", "atr": "mgd/dresscode/*/label_maps/*.png"}[scheme]
    maps = [opened(path) for path in sorted(root.glob(pattern))]
    assert len(maps) >= 5
    other, last = ("atr", 17) if scheme == "lip" else ("lip", 19)
    for parse in maps:
        assert np.array_equal(label_map(parse, scheme), np.asarray(parse))
        assert np.asarray(parse).max() <= last
        with pytest.raises(InputError, match=f"of {scheme.upper()} read as {other.upper()}.*Pass labels='{scheme}'"):
            label_map(parse, other)
    # nothing contradicts a plain torso in either scheme
    torso = np.zeros((20, 10), np.uint8)
    torso[5:15, 2:8] = 5
    assert np.array_equal(label_map(torso, scheme), torso)
