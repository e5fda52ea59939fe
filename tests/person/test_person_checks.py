"""What inputs have to be: polarity, area, size, and that they belong to each other."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from person.drawn import SMALL, H, W, design, inverted, opened, shifted, tryon
from PIL import Image, ImageOps

from unifashion_pl.person.checks import Limits
from unifashion_pl.person.problems import InputError

CASES: dict[str, tuple[Any, str]] = {
    "inverted with joints": (
        lambda f: {"mask": inverted(f), "pose": f["pose"]},
        r"mask looks inverted: white covers \d+ % and leaves out the torso at \(\d+, \d+\).*white marks what is repainted.*Pass invert_mask=True",
    ),
    "inverted": (lambda f: {"mask": inverted(f)}, "mask looks inverted: .*the whole border.*Pass invert_mask=True"),
    "all": (lambda f: {"mask": Image.new("L", (W, H), 255)}, "mask does not fit: white covers 100 %"),
    "nothing": (lambda f: {"mask": Image.new("L", (W, H))}, "mask does not fit: white covers 0 %.*1.0 % to 80 %"),
    "another size": (
        lambda f: {"mask": Image.new("L", (128, 128))},
        "mask is 128×128, person 192×256.*Another picture's mask?",
    ),
    "grey": (lambda f: {"mask": Image.new("L", (W, H), 120)}, "mask is grey, not hard: 100 % .*Pass threshold=128"),
    "no mask": (lambda f: {}, r"mask is absent.*Pass mask= .*parse= or pose=.*box=\(left, top, right, bottom\)"),
    "half-sized joints": (
        lambda f: {"mask": f["mask"], "pose": shifted(f, 0.4)},
        r"pose keypoints end at .* on 192×256.*Pass pose_size=\(128, 96\)",
    ),
    "joints of a larger picture": (
        lambda f: {"mask": f["mask"], "pose": shifted(f, 4)},
        "pose keypoints end at .*Pass pose_size",
    ),
    "another person's joints": (
        lambda f: {
            "mask": f["mask"],
            "parse": f["parse"],
            "pose": [[2.0 + k % 2, 3.0 + k, 0.9] for k in range(24)] + [[190, 250, 0.9]],
        },
        r"pose has \d of 25 joints on the person.*Another picture's joints|pose has \d of 18 joints",
    ),
    "swapped": (
        lambda f: {"person": f["garment"], "garment": f["person"], "mask": f["mask"], "parse": f["parse"]},
        "look swapped",
    ),
    "swapped, by joints": (
        lambda f: {"person": f["garment"], "garment": f["person"], "mask": f["mask"], "pose": f["pose"]},
        r"look swapped: \d+ of \d+ joints lie on the person",
    ),
    "one picture twice": (lambda f: {"garment": f["person"], "mask": f["mask"]}, "garment is the same picture as the person"),
    "another hole": (
        lambda f: {"mask": Image.fromarray(np.roll(np.asarray(opened(f["mask"])), 50, 0)), "agnostic": f["agnostic"]},
        "agnostic is not grey inside of the mask.*Leave agnostic out",
    ),
    "another person's agnostic picture": (
        lambda f: {"mask": f["mask"], "agnostic": Image.new("RGB", (W, H), (128, 128, 128))},
        "agnostic differs from the person outside of the mask.*Another person's",
    ),
    "a photo as body parts": (
        lambda f: {"mask": f["mask"], "densepose": f["person"]},
        "densepose has .* black.*coloured body parts on black",
    ),
    "another person's body parts": (
        lambda f: {"mask": f["mask"], "parse": f["parse"], "densepose": opened(f["densepose"]).rotate(180)},
        "densepose covers .*Another person's",
    ),
    "coloured labels": (lambda f: {"parse": opened(f["parse"]).convert("RGB")}, "parse is RGB, a coloured picture.*label map"),
    "labels beyond the scheme": (
        lambda f: {
            "parse": Image.fromarray(np.where(np.asarray(opened(f["parse"])) == 9, 19, 5).astype(np.uint8)),
            "labels": "atr",
        },
        r"parse has the shape \(256, 192\) and values 5…19. Expected: labels 0…17 of ATR. Pass labels='lip'",
    ),
    "nothing worn": (
        lambda f: {"parse": np.where(np.asarray(opened(f["parse"])) == 13, 13, 0).astype(np.uint8)},
        "parse shows no garment of upper_body .labels 0, 13.",
    ),
    "the agnostic label map": (
        lambda f: {"parse": np.where(np.isin(opened(f["parse"]), (5, 6, 7, 9, 12)), 0, opened(f["parse"])).astype(np.uint8)},
        "parse shows no garment of upper_body .labels .*14, 15.*agnostic label map",
    ),
    "the other scheme": (
        lambda f: {"parse": f["parse"], "labels": "atr"},
        r"parse looks like labels of LIP read as ATR: legs above clothes\. Expected: labels of ATR\. Pass labels='lip'",
    ),
    "a box outside": (lambda f: {"box": (10, 10, 500, 100)}, r"box is \(10, 10, 500, 100\) on a person of 192×256"),
    "floats beyond 1": (lambda f: {"person": np.full((H, W, 3), 1.5), "mask": f["mask"]}, "person is float64 in 1.5…1.5"),
    "channels": (
        lambda f: {"person": np.zeros((H, W, 2), np.uint8), "mask": f["mask"]},
        r"person has the shape \(256, 192, 2\)",
    ),
}


def test_photos_that_a_mask_alone_shows_to_be_swapped_are_warned_about(files: dict[str, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tryon(files, "mask")
    with pytest.warns(UserWarning, match="person and garment may be swapped: .* % of what stands out"):
        tryon(files, "mask", person=files["garment"], garment=files["person"])


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_meant_says_what_was_found_and_the_cure(files: dict[str, Path], tmp_path: Path, case: str) -> None:
    make, message = CASES[case]
    with pytest.raises(InputError, match=message) as caught:
        tryon(files, tmp=tmp_path, **make(files))
    error = caught.value
    assert error.found
    assert error.expected
    assert error.cure
    if error.picture is not None:
        assert error.path is not None
        assert error.path.parent == tmp_path
        assert str(error.path) in str(error)
        assert opened(error.path).size == error.picture.size


def test_the_cures_work(files: dict[str, Path]) -> None:
    truth = np.asarray(opened(files["mask"])) >= 128
    assert np.array_equal(tryon(files, "pose", mask=inverted(files), invert_mask=True).mask, truth)
    soft = Image.fromarray(np.where(truth, 160, 90).astype(np.uint8))
    assert np.array_equal(tryon(files, mask=soft, threshold=128).mask, truth)
    half = tryon(files, "mask", pose=shifted(files, 0.5), pose_size=(128, 96))
    assert (half.pose == tryon(files, "mask", "pose").pose).float().mean() > 0.99


def test_doubtful_inputs_are_warned_about_and_limits_can_be_changed(files: dict[str, Path]) -> None:
    with pytest.warns(UserWarning, match="person is 192×256: expected are 256 pixels or more"):
        tryon(files, "mask", limits=Limits())
    with pytest.warns(UserWarning, match=r"mask: white covers \d\.\d % of the person; usual are"):
        tryon(files, box=(40, 60, 90, 90))
    with pytest.raises(InputError, match="mask does not fit"):
        tryon(files, "mask", limits=replace(SMALL, area=(0.01, 0.02)))


def test_sketches_the_wrong_way_round_and_photos_as_sketches_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    dark = ImageOps.invert(opened(files["sketch"]))
    with pytest.raises(InputError, match=r"sketch looks inverted: \d+ % of it is bright.*Pass invert_sketch=True"):
        design(files, sketch=dark, pictures=tmp_path)
    assert torch.equal(design(files, sketch=dark, invert_sketch=True).sketches, design(files, sketch=files["sketch"]).sketches)
    with pytest.raises(InputError, match="sketch has 0 % of strokes"):
        design(files, sketch=Image.new("L", (W, H)), pictures=tmp_path)
