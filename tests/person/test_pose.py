from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unifashion_pl.person.pose import LIMBS, Pose, body_part_colours, draw_skeleton, limb_colour, read_pose
from unifashion_pl.person.problems import InputError

SIZE = (1024, 768)
#: BODY-25's names in OpenPose's documentation, with ours where COCO-18 has the joint.
BODY25 = [
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "middle hip",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear",
    "left_ear", "left big toe", "left small toe", "left heel", "right big toe", "right small toe", "right heel",
]  # fmt: skip


def body25(scale: float = 1.0) -> list[list[float]]:
    return [[(100 + 20 * k) * scale, (700 + 8 * k) * scale, 0.9] for k in range(25)]


def openpose(rows: list[list[float]]) -> dict[str, object]:
    return {"people": [{"pose_keypoints_2d": [v for row in rows for v in row]}]}


def test_body_25_and_coco_18_name_the_same_joints() -> None:
    pose = read_pose(openpose(body25()), SIZE)
    assert pose.format == "body25"
    expected = {name: (100 + 20 * k, 700 + 8 * k) for k, name in enumerate(BODY25) if "_" in name or name in ("nose", "neck")}
    assert {name: tuple(map(round, point)) for name, point in pose.joints().items()} == expected
    assert pose.coco18().joints() == pose.joints()
    assert len(pose.coco18().points) == 18
    assert pose.coco18().format == "coco18"


def test_every_form_of_a_file_gives_the_same_points(tmp_path: Path) -> None:
    rows = [row for k, row in enumerate(body25()) if k < 19 and k != 8]
    ways: dict[str, object] = {
        "openpose": openpose(rows),
        "dress code": {"keypoints": [[x / 2, y / 2, c, k] for k, (x, y, c) in enumerate(rows)]},
        "shard": {"format": "coco18", "size": [1024, 768], "points": rows},
        "array": np.array(rows),
        "without confidence": np.array(rows)[:, :2],
    }
    (tmp_path / "pose.json").write_text(json.dumps(ways["openpose"]))
    ways["file"] = tmp_path / "pose.json"
    for name, way in ways.items():
        pose = read_pose(way, SIZE, pose_size=(512, 384) if name == "dress code" else None)  # type: ignore[arg-type]
        assert pose.joints()["left_wrist"] == pytest.approx((240, 756)), name
        assert pose.size == SIZE
    assert read_pose(Pose("coco18", (512, 384), [(1.0, 2.0, 1.0)] * 18), SIZE).points[0] == (2.0, 4.0, 1.0)


def test_what_was_not_found_or_cut_off_is_absent() -> None:
    rows = body25()
    rows[0] = [300.0, 0.0, 0.75]  # a head above the frame
    rows[4] = [0.0, 0.0, 0.0]
    rows[7] = [-1.0, -1.0, 0.0]
    found = read_pose(openpose(rows), SIZE).joints()
    assert not {"nose", "right_wrist", "left_wrist"} & set(found)
    assert "neck" in found


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (body25(0.5), {}, r"keypoints end at \(290, 446\) on 768×1024.*384×512 coordinates\? Pass pose_size=\(512, 384\)"),
        (body25(0.001), {}, r"Pass pose_size=\(1, 1\)"),
        (body25(2), {}, r"keypoints end at \(1160, 1784\) on 768×1024.*Pass pose_size=\(height, width\)"),
        (body25()[:17], {}, "has 17 joints. Expected: 25 joints of BODY-25 or 18 of COCO-18"),
        ([[0.0, 0.0, 0.0]] * 18, {}, "no joint with a confidence above 0"),
    ],
)
def test_coordinates_that_do_not_fit_say_so(rows: list[list[float]], options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_pose(rows, SIZE, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "[[1]]", '{"people": []}', '{"people": [{}]}', '{"keypoints": "none"}', "5", "[" * 100_000),
        *(
            '{"people": {"0": 1}}',
            '{"people": [{"pose_keypoints_2d": ["1", "2", "3"]}]}',
            '{"people": [{"pose_keypoints_2d": [1, 2]}]}',
        ),
        json.dumps({"keypoints": [[1e300, 1.0, 1.0]] * 18}),
        json.dumps({"keypoints": [[10**400, 1.0, 1.0]] * 18}),
        json.dumps({"points": [[1.0, 1.0, 1.0]] * 18, "size": [0, 5]}),
        json.dumps({"points": [[1.0, 1.0, 1.0]] * 18, "size": [1e300, "x"]}),
        json.dumps({"points": [[1.0, 1.0, 1.0]] * 18, "size": 5}),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(InputError, match="^pose "):
        read_pose(tmp_path / "p.json", SIZE)
    with pytest.raises(FileNotFoundError):
        read_pose(tmp_path / "absent.json", SIZE)


def test_a_picture_without_anybody_is_said_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"people": []}')
    with pytest.raises(InputError, match="^pose nobody was found in the picture. Expected: one person. Leave pose out"):
        read_pose(tmp_path / "p.json", SIZE)


def test_half_sized_coordinates_are_taken_when_they_are_meant() -> None:
    doubled, whole = read_pose(body25(0.5), SIZE, pose_size=(512, 384)).joints(), read_pose(body25(), SIZE).joints()
    assert doubled.keys() == whole.keys()
    assert np.allclose(list(doubled.values()), list(whole.values()))
    assert read_pose(body25(0.5), SIZE, pose_size=SIZE).joints()["nose"] == (50, 350)


def test_a_skeleton_is_coloured_limbs_on_black() -> None:
    pose = read_pose([[100 + 200 * (k % 4), 100 + 200 * (k // 4), 1.0] for k in range(18)], SIZE, pose_size=SIZE)
    picture = draw_skeleton(pose, (512, 384))
    assert (picture.mode, picture.size) == ("RGB", (384, 512))
    pixels = np.asarray(picture)
    assert 0.01 < (pixels.max(-1) > 0).mean() < 0.2
    assert len({limb_colour(k) for k in range(len(LIMBS))}) == len(LIMBS)
    joints = pose.scaled((512, 384)).joints()
    x, y = np.mean([joints["left_elbow"], joints["left_wrist"]], 0)
    number = LIMBS.index(("left_elbow", "left_wrist"))
    assert tuple(pixels[round(y), round(x)]) == limb_colour(number)
    hips = np.mean([joints["left_hip"], joints["right_hip"]], 0)
    shoulders = np.mean([joints["left_shoulder"], joints["right_shoulder"]], 0)
    assert pose.scaled((512, 384)).torso() == pytest.approx(tuple((hips + shoulders) / 2))


def test_labels_of_body_parts_become_colours_and_colours_stay() -> None:
    labels = np.zeros((4, 25), np.uint8)
    labels[2] = np.arange(25)
    coloured = body_part_colours(Image.fromarray(labels))
    assert coloured is not None
    row = np.asarray(coloured)[2]
    assert tuple(row[0]) == (0, 0, 0)
    assert len({tuple(c) for c in row}) == 25
    assert body_part_colours(Image.new("RGB", (4, 4), 9)) is None
    assert body_part_colours(Image.new("L", (4, 4), 200)) is None


def test_arrays_of_numbers_that_no_picture_has_are_refused() -> None:
    for number in (float("nan"), float("inf"), 1e300, 10**400):
        with pytest.raises(InputError, match="^pose "):
            read_pose([[number, 1.0, 1.0]] * 18, SIZE)


def test_the_file_is_named_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "three.json").write_text(json.dumps({"keypoints": [[1, 1, 1]] * 3}))
    with pytest.raises(InputError, match=rf"^pose has 3 joints.* File: {tmp_path / 'three.json'}"):
        read_pose(tmp_path / "three.json", SIZE)
    with pytest.raises(InputError, match="^pose has 3 joints") as found:
        read_pose([[1, 1, 1]] * 3, SIZE)
    assert found.value.file is None
