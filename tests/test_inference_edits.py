"""Try-on and design on a user's files: real drawings of the wardrobe, a small model, the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import CLIP_TEXT, UNET, small_backbone

from unifashion_pl import UniFashionModule
from unifashion_pl.cli import main
from unifashion_pl.generation import Denoiser, ImageVAE, PromptEncoder
from unifashion_pl.inference_edits import paste
from unifashion_pl.tasks import DiffusionModule
from unifashion_pl.wardrobe.catalogue import WardrobeSpec
from unifashion_pl.wardrobe.tryon import write_vitonhd

FAST: dict[str, Any] = {"sampler": "fast", "steps": 2}


def small(channels: int = 13) -> UniFashionModule:
    torch.manual_seed(0)
    garment: Any = "branch" if channels == 13 else None
    denoiser = Denoiser(config=UNET, in_channels=channels, garment=garment)
    with torch.no_grad():
        for conv in denoiser.garment.zero_convs if denoiser.garment is not None else ():
            conv.weight.normal_(std=0.3)  # type: ignore[union-attr, operator]
        if denoiser.garment is not None:
            denoiser.garment.hint.weight.normal_(std=0.3)
    head = DiffusionModule(
        denoiser=denoiser, vae=ImageVAE("tiny"), text_encoder=PromptEncoder(config=CLIP_TEXT), query_width=32, size=(32, 24)
    )
    return UniFashionModule(small_backbone(), diffusion=head, policy="editing_control").eval()


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return small()


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
    model: UniFashionModule, files: dict[str, list[Path]]
) -> None:
    person, mask, garments = files["image"][0], files["agnostic-mask"][0], files["cloth"]
    made = model.try_on(person, garments, mask, **FAST)
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
    with pytest.raises(ValueError, match="3 persons and 2 of mask: expected one each, or one for all"):
        model.try_on(files["image"], files["cloth"][0], files["agnostic-mask"][:2], **FAST)
    with pytest.raises(ValueError, match="3 of person, 2 of garment, 3 of mask, 1 of pose"):
        model.try_on(files["image"], files["cloth"][:2], files["agnostic-mask"], **FAST)


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
        small(4).try_on(person, garment, mask, **FAST)
    with pytest.raises(TypeError, match="unexpected keyword"):
        model.try_on(person, garment, mask, strength=0.5, **FAST)


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
    folder = str(UniFashionModule.from_config("tryon.yaml", {"init_from": None}).save_pretrained(tmp_path / "model"))
    person, mask = str(files["image"][0]), str(files["agnostic-mask"][0])
    options = ["--mask", mask, "--model", folder, "--sampler", "fast", "--steps", "2"]
    main(["tryon", person, str(files["cloth"][0]), str(files["cloth"][1]), "--out", str(tmp_path / "t.png"), *options])
    assert Image.open(tmp_path / "t.png").size == (384, 256)
    main(["design", person, "red top", "--sketch", str(files["im_sketch"][0]), "--out", str(tmp_path / "d.png"), *options])
    assert Image.open(tmp_path / "d.png").size == (192, 256)
    assert "t.png" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["tryon", person, str(files["cloth"][0]), "--model", folder])
    assert "unifashion tryon: mask is absent" in capsys.readouterr().err
