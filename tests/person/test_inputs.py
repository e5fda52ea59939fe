"""Try-on and design inputs of drawn persons, whose masks, label maps and joints are exact by construction."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from person.drawn import NAME, H, W, design, opened, tryon
from PIL import Image

from unifashion_pl.data.samples import TryOnBatch
from unifashion_pl.person.inputs import batch_of, shown
from unifashion_pl.person.problems import InputError


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


def test_inputs_are_shown_as_the_model_has_them(files: dict[str, Path]) -> None:
    given = tryon(files, "mask", "pose")
    photo, posed, region, left = np.split(np.asarray(shown(given)), 4, axis=1)
    pixels, mask = given.pixels[0].permute(1, 2, 0).numpy(), given.masks[0, 0].numpy()
    assert np.array_equal(photo, pixels)
    drawn = given.pose[0].permute(1, 2, 0).numpy()
    assert np.array_equal(posed[drawn.any(-1)], drawn[drawn.any(-1)])
    assert (np.abs(region.astype(int) - pixels)[~mask] == 0).all()
    assert (region[mask][:, 0] > region[mask][:, 1]).mean() > 0.99
    assert np.array_equal(left[~mask], pixels[~mask])
    assert (left[mask] == 128).all()
    alone = np.asarray(shown(tryon(files, box=(20, 40, 150, 200))))
    assert np.array_equal(alone[:, :W], alone[:, W : 2 * W])


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


def test_absent_and_broken_files_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"garment: no file .*no\.jpg"):
        tryon(files, "mask", garment=tmp_path / "no.jpg")
    (tmp_path / "page.jpg").write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match="garment .*text/html, not an image"):
        tryon(files, "mask", garment=tmp_path / "page.jpg")


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


def test_inputs_of_two_kinds_make_no_batch(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="1 of 2 inputs have a sketch"):
        batch_of([design(files, sketch=files["sketch"]), design(files)])
    with pytest.raises(ValueError, match="no inputs"):
        batch_of([])
