"""Try-on and design on a user's files: real drawings of the wardrobe, a small model, the command line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from small import painter

from unifashion_pl import UniFashionModule
from unifashion_pl.cli import main
from unifashion_pl.inference.persons import paste
from unifashion_pl.tasks import DiffusionModule
from unifashion_pl.wardrobe.catalogue import WardrobeSpec
from unifashion_pl.wardrobe.tryon import write_vitonhd

# Photos of 192 × 256 pixels keep the tests quick; real ones are larger.
pytestmark = pytest.mark.filterwarnings("ignore:.*pixels or more on the shorter side")

FAST: dict[str, Any] = {"sampler": "fast", "steps": 2}


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return painter()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    root = tmp_path_factory.mktemp("viton")
    spec = WardrobeSpec(tryon_train=0, tryon_test=3, tryon_size=(192, 256))
    write_vitonhd(root, spec, 0, lambda function, jobs: iter([function(*job) for job in jobs]))
    return {folder.name: sorted(folder.iterdir()) for folder in (root / "test").iterdir()}


def arrays(pictures: list[Image.Image]) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(picture, np.int16) for picture in pictures])


def test_the_person_stays_as_photographed_outside_of_the_mask(model: UniFashionModule, files: dict[str, list[Path]]) -> None:
    person, garment, mask = files["image"][0], files["cloth"][1], files["agnostic-mask"][0]
    (made,) = model.try_on(person, garment, mask, densepose=files["image-densepose"][0], **FAST)
    photo, white = np.asarray(Image.open(person), np.int16), np.asarray(Image.open(mask)) > 127
    difference = np.abs(np.asarray(made, np.int16) - photo).max(-1)
    assert made.size == (192, 256)
    assert not difference[~white].any()
    assert (difference[white] > 0).mean() > 0.9
    (whole,) = model.try_on(person, garment, mask, densepose=files["image-densepose"][0], paste_back=False, **FAST)
    assert np.array_equal(np.asarray(whole)[white], np.asarray(made)[white])
    assert (np.asarray(whole)[~white] != np.asarray(made)[~white]).any()


def test_the_picture_depends_on_garment_pose_text_sketch_and_seed_and_on_nothing_else(
    model: UniFashionModule, files: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    person, mask, garments = files["image"][0], files["agnostic-mask"][0], files["cloth"]
    counts: list[int] = []
    paint = DiffusionModule.paint
    with monkeypatch.context() as patched:
        patched.setattr(
            DiffusionModule, "paint", lambda self, q, rows, **s: counts.append(len(rows)) or paint(self, q, rows, **s)
        )
        made = model.try_on(person, garments, mask, **FAST)
        by_two = model.try_on(person, garments, mask, **FAST, batch_size=2)
    assert counts == [3, 2, 1]
    assert np.abs(arrays(made) - arrays(by_two)).max() <= 1
    again = [model.try_on(person, garment, mask, **FAST, batch_size=1)[0] for garment in garments]
    assert np.abs(arrays(made) - arrays(again)).max() <= 1
    assert len({p.tobytes() for p in made}) == 3
    usual = made[0].tobytes()
    assert model.try_on(Image.open(person), Image.open(garments[0]), Image.open(mask), **FAST)[0].tobytes() == usual
    for change in ({"seed": 1}, {"pose": files["openpose_json"][0]}, {"guidance": 3.0}, {"start": "released"}):
        assert model.try_on(person, garments[0], mask, **{**FAST, **change})[0].tobytes() != usual, change
    sketch = files["im_sketch"][0]
    designs = [
        model.design(person, text, sketch=drawn, mask=mask, **FAST)[0].tobytes()
        for text in ("red shirt", "blue shirt")
        for drawn in (sketch, None)
    ]
    assert len(set(designs)) == 4
    both = model.design(person, ["red shirt", "blue shirt"], sketch=sketch, mask=mask, **FAST)
    assert np.abs(arrays(both[:1]) - np.frombuffer(designs[0], np.uint8).reshape(256, 192, 3)).max() <= 1


def test_several_persons_take_lists(model: UniFashionModule, files: dict[str, list[Path]]) -> None:
    made = model.try_on(files["image"], files["cloth"][0], files["agnostic-mask"], **FAST)
    assert len(made) == 3
    (alone,) = model.try_on(files["image"][2], files["cloth"][0], files["agnostic-mask"][2], **FAST)
    assert np.abs(arrays(made[2:]) - arrays([alone])).max() <= 1
    with pytest.raises(ValueError, match="3 of person, 1 of garment, 2 of mask, 1 of pose, 1 of seed: expected equally many"):
        model.try_on(files["image"], files["cloth"][0], files["agnostic-mask"][:2], **FAST)
    with pytest.raises(ValueError, match="3 of person, 2 of garment, 3 of mask, 1 of pose"):
        model.try_on(files["image"], files["cloth"][:2], files["agnostic-mask"], **FAST)


def test_lists_of_one_joints_as_numbers_and_boxes_per_person(model: UniFashionModule, files: dict[str, list[Path]]) -> None:
    person, garment, mask, pose = (files[name][0] for name in ("image", "cloth", "agnostic-mask", "openpose_json"))
    points = json.loads(pose.read_text())["people"][0]["pose_keypoints_2d"]
    joints = [points[i : i + 3] for i in range(0, len(points), 3)]
    expected = model.try_on(person, garment, mask, pose=pose, **FAST)
    assert model.try_on([person], [garment], [mask], pose=[pose], **FAST) == expected
    assert model.try_on(person, garment, mask, pose=joints, **FAST) == expected
    assert model.try_on([person], garment, [mask], pose=[joints], seed=[0], **FAST) == expected
    boxes = [(40, 60, 150, 180), (30, 50, 120, 140)]
    both = model.try_on(files["image"][:2], garment, box=boxes, **FAST)
    each = [model.try_on(p, garment, box=box, **FAST)[0] for p, box in zip(files["image"], boxes)]
    assert np.abs(arrays(both) - arrays(each)).max() <= 1
    varied = model.try_on(person, garment, mask, seed=[3, 4], **FAST)
    assert np.abs(arrays(varied[1:]) - arrays(model.try_on(person, garment, mask, seed=4, **FAST))).max() <= 1
    assert (arrays(varied[:1]) != arrays(varied[1:])).any()
    with pytest.raises(ValueError, match="1 of person, 2 of garment, 1 of mask, 1 of pose, 3 of densepose, 1 of seed"):
        model.try_on(person, files["cloth"][:2], mask, densepose=files["image-densepose"], **FAST)


def test_what_try_on_does_not_read_and_what_is_out_of_range_is_refused(
    model: UniFashionModule, files: dict[str, list[Path]]
) -> None:
    ask = (files["image"][0], files["cloth"][0], files["agnostic-mask"][0])
    with pytest.raises(ValueError, match="try-on reads the garment's photo and no text: .* use design"):
        model.try_on(*ask, text="a red dress", **FAST)
    for wrong, said in (
        ({"garment_until": -3}, "garment_until is -3, expected 0 to 1"),
        ({"garment_until": "x"}, r"garment_until is 'x' \(str\), expected a finite number"),
        ({"guidance": float("nan")}, "guidance is nan, expected a number"),
        ({"guidance": 0}, "guidance is 0, expected a number above 0"),
        ({"garment_guidance": -1.5}, "garment_guidance is -1.5, expected a number above 0"),
        ({"steps": 0}, "sampling takes 1 to 1000 steps, got 0"),
        ({"steps": 2.5}, r"steps is 2.5 \(float\), expected a whole number"),
        ({"seed": -1}, "seed is -1, expected 0 to"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"garment_guidance": float("inf")}, "garment_guidance is inf"),
    ):
        with pytest.raises(ValueError, match=said):
            model.try_on(*ask, **(FAST | wrong))  # type: ignore[operator]
    with pytest.raises(ValueError, match="guidance is nan"):
        model.generate("red", guidance=float("nan"), **FAST)
    with pytest.raises(ValueError, match="nothing of '!!!' can be read"):
        model.design(ask[0], "!!!", mask=ask[2], **FAST)
    with pytest.raises(ValueError, match="mask is of type int"):
        model.try_on(*ask[:2], mask=3, **FAST)
    numpy_s = {"seed": np.int64(3), "guidance": np.float32(2), "steps": np.int32(2), "batch_size": np.int16(1)}
    ours = {"seed": 3, "guidance": 2.0, "steps": 2, "batch_size": 1}
    assert model.try_on(*ask, **(FAST | numpy_s)) == model.try_on(*ask, **(FAST | ours))  # type: ignore[arg-type]


def test_what_cannot_be_meant_is_refused(model: UniFashionModule, files: dict[str, list[Path]], tmp_path: Path) -> None:
    person, garment, mask = files["image"][0], files["cloth"][0], files["agnostic-mask"][0]
    inverted = Image.eval(Image.open(mask), lambda value: 255 - value)
    with pytest.raises(ValueError, match="inverted"):
        model.try_on(person, garment, inverted, densepose=files["image-densepose"][0], pose=files["openpose_json"][0], **FAST)
    made = model.try_on(person, garment, inverted, invert_mask=True, **FAST)
    assert made == model.try_on(person, garment, mask, **FAST)
    with pytest.raises(ValueError, match="nothing to make it from"):
        model.try_on(person, garment, **FAST)
    with pytest.raises(RuntimeError, match=r"U-Net reads no person, mask or pose.*tryon\.yaml"):
        painter(4).try_on(person, garment, mask, **FAST)
    with pytest.raises(TypeError, match="strength"):
        model.try_on(person, garment, mask, strength=0.5, **FAST)


def test_grey_masks_swapped_photos_and_other_joints_are_refused(
    model: UniFashionModule, files: dict[str, list[Path]], tmp_path: Path
) -> None:
    person, garment, mask = files["image"][0], files["cloth"][0], files["agnostic-mask"][0]
    grey = Image.open(mask).convert("L").filter(ImageFilter.GaussianBlur(12))
    with pytest.raises(ValueError, match="mask is grey, not hard.*threshold=128"):
        model.try_on(person, garment, grey, **FAST)
    assert len(model.try_on(person, garment, grey, threshold=128, **FAST)) == 1
    with pytest.raises(ValueError, match="person and garment look swapped.*Swap the two"):
        model.try_on(garment, person, mask, densepose=files["image-densepose"][0], **FAST)
    joints = json.loads(files["openpose_json"][0].read_text())
    joints["people"][0]["pose_keypoints_2d"] = joints["people"][0]["pose_keypoints_2d"][: 17 * 3]
    (tmp_path / "coco17.json").write_text(json.dumps(joints))
    with pytest.raises(ValueError, match="17 .*25.*18"):
        model.try_on(person, garment, mask, tmp_path / "coco17.json", **FAST)


def test_a_phone_s_and_a_printer_s_files_give_the_same_person(
    model: UniFashionModule, files: dict[str, list[Path]], tmp_path: Path
) -> None:
    """Turned by EXIF, with transparency, and in CMYK (whose colours PIL converts almost exactly)."""
    garment, mask = files["cloth"][0], files["agnostic-mask"][0]
    photo = Image.open(files["image"][0]).convert("RGB")
    expected = np.asarray(model.try_on(photo, garment, mask, **FAST)[0], np.int16)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise to look at it
    photo.rotate(90, expand=True).save(tmp_path / "phone.png", exif=turned)
    photo.convert("RGBA").save(tmp_path / "alpha.png")
    photo.convert("CMYK").save(tmp_path / "print.tif")
    for name in ("phone.png", "alpha.png", "print.tif"):
        (made,) = model.try_on(tmp_path / name, garment, mask, **FAST)
        assert made.size == photo.size
        assert np.abs(np.asarray(made, np.int16) - expected).max() <= 2, name
    transparent = photo.convert("RGBA")
    transparent.putalpha(Image.open(mask).convert("L").point(lambda value: 255 - value))
    (made,) = model.try_on(
        transparent, garment, mask, paste_back=False, **FAST
    )  # the hole is white instead of grey before it is masked
    assert made.mode == "RGB"


@pytest.mark.parametrize("size", [(768, 1024), (333, 457), (640, 480)])
def test_photographs_of_any_size_go_through(
    model: UniFashionModule, files: dict[str, list[Path]], size: tuple[int, int]
) -> None:
    """A box for a mask; the model paints 32 × 24 and the photo stays as it was around the box."""
    photo = Image.open(files["image"][0]).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    w, h = size
    box = (int(0.25 * w), int(0.3 * h), int(0.75 * w), int(0.7 * h))
    (made,) = model.try_on(photo, files["cloth"][1], box=box, **FAST)
    assert made.size == size
    changed = (np.asarray(made) != np.asarray(photo)).any(-1)
    rows, columns = np.nonzero(changed)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx(box, abs=3)
    assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean() > 0.9


def test_a_text_that_is_cut_is_named(model: UniFashionModule, files: dict[str, list[Path]]) -> None:
    ask: dict[str, Any] = {"mask": files["agnostic-mask"][0], **FAST}
    with pytest.warns(
        UserWarning, match=r"'red shirt red shirt .*' has 42 tokens, the text encoder reads 12: the end is not read"
    ):
        (long,) = model.design(files["image"][0], "red shirt " * 20, **ask)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*pixels or more.*")
        model.design(files["image"][0], "red shirt", **ask)
    with pytest.warns(UserWarning, match="1 of 2 texts is longer"):
        model.generate(["red", "red shirt " * 20], **FAST)
    assert long.size == (192, 256)
    with pytest.warns(
        UserWarning, match=r"'red shirt red shirt .*' has 122 tokens, the Q-Former reads 52: the end is not read"
    ):
        model.generate("red shirt " * 60, image=files["image"][0], **FAST)


def test_a_painting_goes_back_without_its_bars() -> None:
    painted = torch.zeros(3, 32, 24, dtype=torch.uint8)
    painted[:, 10:22] = 200
    wide = Image.new("RGB", (48, 24), (10, 20, 30))
    assert set(np.asarray(paste(painted, wide, None)).ravel().tolist()) == {200}
    nothing = paste(painted, wide, np.zeros((24, 48), bool))
    assert np.array_equal(np.asarray(nothing), np.asarray(wide))
    left = np.zeros((24, 48), bool)
    left[:, :20] = True
    half = np.asarray(paste(painted, wide, left))
    assert (half[:, :20] == 200).all()
    assert np.array_equal(half[:, 20:], np.asarray(wide)[:, 20:])


def test_the_command_line(files: dict[str, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    built = UniFashionModule.from_config("tryon.yaml", {"init_from": None})
    with torch.no_grad():  # the branch changes nothing before it has learnt
        for parameter in built.diffusion_head.denoiser.garment.parameters():  # type: ignore[union-attr]
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = str(built.save_pretrained(tmp_path / "model"))
    person, mask = str(files["image"][0]), str(files["agnostic-mask"][0])
    options = ["--mask", mask, "--model", folder, "--sampler", "fast", "--steps", "2"]
    main(["tryon", person, str(files["cloth"][0]), str(files["cloth"][1]), "--out", str(tmp_path / "t.png"), *options])
    assert Image.open(tmp_path / "t.png").size == (384, 256)
    assert "painting" in capsys.readouterr().err
    strong = ["--garment-guidance", "3", "--out", str(tmp_path / "g.png"), *options]
    main(["tryon", person, str(files["cloth"][0]), str(files["cloth"][1]), *strong])
    assert (arrays([Image.open(tmp_path / "g.png")]) != arrays([Image.open(tmp_path / "t.png")])).any()
    main(["design", person, "red top", "--sketch", str(files["im_sketch"][0]), "--out", str(tmp_path / "d.png"), *options])
    assert Image.open(tmp_path / "d.png").size == (192, 256)
    assert "d.png" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["tryon", person, str(files["cloth"][0]), "--model", folder])
    assert "unifashion tryon: mask is absent" in capsys.readouterr().err
