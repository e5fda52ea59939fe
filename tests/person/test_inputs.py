"""Try-on and design inputs of drawn persons, whose masks, label maps and joints are exact by construction."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from unifashion_pl.data.samples import TryOnBatch
from unifashion_pl.person.body import LIMITS
from unifashion_pl.person.checks import Limits
from unifashion_pl.person.inputs import batch_of, prepare_design, prepare_tryon
from unifashion_pl.person.masks import label_map, mask_from_parse
from unifashion_pl.person.problems import InputError
from unifashion_pl.wardrobe import WardrobeSpec, write_wardrobe

W, H = 192, 256
SMALL = replace(LIMITS, short_side=64)
NAME = "00001_00"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both parts of MGD; not to be changed."""
    spec = WardrobeSpec(
        products_train=1,
        products_val=1,
        views=1,
        image_size=32,
        fiq_train=4,
        fiq_val=4,
        fiq_gallery=4,
        tryon_train=3,
        tryon_test=2,
        tryon_size=(W, H),
        short_train=1,
        short_test=1,
    )
    return write_wardrobe(tmp_path_factory.mktemp("w") / "w", spec=spec, workers=1, progress=False, layouts=["mgd"])


@pytest.fixture(scope="module")
def files(root: Path) -> dict[str, Path]:
    """Role -> file of one training pair of VITON-HD."""
    train = root / "viton-hd/train"
    names = {
        "person": "image/{}.jpg", "garment": "cloth/{}.jpg", "mask": "agnostic-mask/{}_mask.png", "agnostic": "agnostic-v3.2/{}.jpg",
        "parse": "image-parse-v3/{}.png", "densepose": "image-densepose/{}.jpg", "pose": "openpose_json/{}_keypoints.json",
        "sketch": "im_sketch/{}.png",
    }  # fmt: skip
    return {role: train / name.format(NAME) for role, name in names.items()}


def tryon(files: dict[str, Path], *roles: str, tmp: Path | None = None, **options: Any) -> Any:
    chosen = {role: files[role] for role in ("person", "garment", *roles)}
    return prepare_tryon(**{**chosen, "size": (H, W), "image_size": 32, "limits": SMALL, "pictures": tmp, **options})


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def test_everything_given_becomes_a_batch(files: dict[str, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = tryon(files, "mask", "pose", "parse", "densepose", "agnostic", text="red top")
    assert isinstance(batch_of([given, given]), TryOnBatch)
    assert (given.keys, given.texts, given.notes, given.sketches) == ([f"{NAME}__{NAME}"], ["red top"], [], None)
    for images in (given.pixels, given.garment_pixels, given.pose):
        assert (images.shape, images.dtype) == ((1, 3, H, W), torch.uint8)
    assert (given.garments.shape, given.garments.dtype) == ((1, 3, 32, 32), torch.uint8)
    truth = np.asarray(opened(files["mask"])) >= 128
    assert np.array_equal(given.masks[0, 0].numpy(), truth)
    assert np.array_equal(given.mask, truth)
    assert np.array_equal(given.pixels[0].permute(1, 2, 0).numpy(), np.asarray(opened(files["person"])))


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


def test_unknown_inputs_are_named(files: dict[str, Path]) -> None:
    with pytest.raises(TypeError, match="unknown inputs masks; known are size, image_size, densepose"):
        tryon(files, masks=files["mask"])


def test_a_box_and_an_agnostic_picture_make_a_mask(files: dict[str, Path]) -> None:
    box = tryon(files, box=(40, 60, 150, 220))
    assert box.mask[60:220, 40:150].all()
    assert box.mask.sum() == 160 * 110
    truth = np.asarray(opened(files["mask"])) >= 128
    again = tryon(files, "agnostic")
    assert (again.mask == truth).mean() > 0.97


def test_arrays_tensors_and_modes_are_the_same_picture(files: dict[str, Path]) -> None:
    person = opened(files["person"])
    ways: list[Any] = [
        np.asarray(person),
        torch.from_numpy(np.array(person)).permute(2, 0, 1),
        np.asarray(person) / 255,
        str(files["person"]),
    ]
    expected = tryon(files, "mask").pixels
    for way in ways:
        assert torch.equal(tryon(files, "mask", person=way).pixels, expected)
    mask = opened(files["mask"]).convert("L")
    clear = Image.new("RGBA", mask.size, (255, 255, 255, 0))
    clear.putalpha(mask)
    for way in (
        mask.convert("1"),
        mask.convert("RGB"),
        mask.convert("RGBA"),
        mask.convert("P"),
        clear,
        np.asarray(mask) >= 128,
    ):
        assert np.array_equal(tryon(files, mask=way).mask, np.asarray(mask) >= 128)


def test_exif_and_transparency_are_applied(files: dict[str, Path], tmp_path: Path) -> None:
    person = opened(files["person"])
    exif = Image.Exif()
    exif[0x0112] = 6
    person.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(tryon(files, "mask", person=tmp_path / "turned.png").pixels, tryon(files, "mask").pixels)
    cut = opened(files["garment"]).convert("RGBA")
    cut.putalpha(0)
    assert tryon(files, "mask", garment=cut).garment_pixels.float().mean() == 255
    assert tryon(files, "mask", garment=opened(files["garment"]).convert("CMYK")).garment_pixels.shape == (1, 3, H, W)


def test_other_proportions_than_the_painting_get_white_bars_outside_of_the_mask(files: dict[str, Path]) -> None:
    wide = tryon(files, "mask", "pose", size=(256, 256))
    assert any("white bars fill the rest" in note for note in wide.notes)
    assert wide.pixels[0, :, :, :32].min() == 255
    assert not wide.masks[0, :, :, :32].any()
    assert wide.pose[0, :, :, :32].max() == 0


def test_a_skeleton_stands_in_for_body_parts(files: dict[str, Path]) -> None:
    drawn, given = tryon(files, "mask", "pose"), tryon(files, "mask", "pose", "densepose")
    assert 0 < (drawn.pose.amax(1) > 0).float().mean() < 0.15 < (given.pose.amax(1) > 16).float().mean()


# what cannot be meant


def inverted(files: dict[str, Path]) -> Image.Image:
    return ImageOps.invert(opened(files["mask"]).convert("L"))


def shifted(files: dict[str, Path], factor: float) -> dict[str, Any]:
    values = json.loads(files["pose"].read_text())["people"][0]["pose_keypoints_2d"]
    return {"people": [{"pose_keypoints_2d": [v * factor if k % 3 < 2 else v for k, v in enumerate(values)]}]}


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
    "no mask": (lambda f: {}, r"mask is absent.*Pass mask= .*parse= with pose=.*box=\(left, top, right, bottom\)"),
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


def test_the_picture_of_a_wrong_mask_shows_it_over_the_person(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        tryon(files, "pose", mask=inverted(files), tmp=tmp_path)
    shown, person = (np.asarray(i, int) for i in (opened(caught.value.path), opened(files["person"])))  # type: ignore[arg-type]
    white = np.asarray(inverted(files)) >= 128
    redder = (shown[..., 0] - shown[..., 1]) - (person[..., 0] - person[..., 1])
    assert np.median(redder[white]) > 60
    assert np.median(abs(shown - person)[~white]) == 0


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


def test_absent_and_broken_files_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"garment: no file .*no\.jpg"):
        tryon(files, "mask", garment=tmp_path / "no.jpg")
    (tmp_path / "page.jpg").write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match="garment .*text/html, not an image"):
        tryon(files, "mask", garment=tmp_path / "page.jpg")


# design


def design(files: dict[str, Path], **options: Any) -> Any:
    settings = {"mask": files["mask"], "pose": files["pose"], "size": (H, W), "image_size": 32, "limits": SMALL}
    return prepare_design(files["person"], **{**settings, **options})


def test_a_design_has_the_sketch_in_the_garments_place(files: dict[str, Path]) -> None:
    given = design(files, sketch=files["sketch"], text="green top")
    strokes = np.asarray(opened(files["sketch"]))
    assert np.array_equal(given.sketches[0, 0].numpy(), strokes)
    assert torch.equal(given.sketches, given.garment_pixels)
    assert given.garments.max() > 40
    drawn = design(files, garment=files["garment"])
    assert drawn.notes[0].startswith("the sketch was drawn from the garment's photo")
    assert 0.002 < (drawn.sketches >= 128).float().mean() < 0.3
    without = design(files, text="green top")
    assert without.sketches is None
    assert without.garment_pixels.max() == without.garments.max() == 0


def test_sketches_the_wrong_way_round_and_photos_as_sketches_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    dark = ImageOps.invert(opened(files["sketch"]))
    with pytest.raises(InputError, match=r"sketch looks inverted: \d+ % of it is bright.*Pass invert_sketch=True"):
        design(files, sketch=dark, pictures=tmp_path)
    assert torch.equal(design(files, sketch=dark, invert_sketch=True).sketches, design(files, sketch=files["sketch"]).sketches)
    with pytest.raises(InputError, match="sketch has 0 % of strokes"):
        design(files, sketch=Image.new("L", (W, H)), pictures=tmp_path)


def test_inputs_of_two_kinds_make_no_batch(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="1 of 2 inputs have a sketch"):
        batch_of([design(files, sketch=files["sketch"]), design(files)])
    with pytest.raises(ValueError, match="no inputs"):
        batch_of([])
