from __future__ import annotations

import numpy as np
import pytest
import torch
from data.rawdata import picture
from PIL import Image

from unifashion_pl.data.transforms import EncoderTransform, MaskTransform, PixelTransform, resize, target_pad, to_tensor


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((400, 533), (426, 533)),
        ((100, 200), (160, 200)),
        ((101, 200), (159, 200)),
        ((100, 120), (100, 120)),
        ((200, 100), (200, 160)),
    ],
)
def test_target_pad_sizes(size: tuple[int, int], padded: tuple[int, int]) -> None:
    out = target_pad(torch.full((3, size[1], size[0]), 7, dtype=torch.uint8))
    assert (out.shape[2], out.shape[1]) == padded
    inside = (out == 7).all(0)
    assert int(inside.sum()) == size[0] * size[1]
    assert out[:, ~inside].sum() == 0


def reference(image: Image.Image, size: int) -> np.ndarray:
    """The same with Pillow alone, as published loaders do it."""
    width, height = image.size
    if max(image.size) / min(image.size) >= 1.25:
        side = max(image.size) / 1.25
        x, y = max(int((side - width) / 2), 0), max(int((side - height) / 2), 0)
        padded = Image.new("RGB", (width + 2 * x, height + 2 * y))
        padded.paste(image, (x, y))
        image = padded
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(size * width / short), int(size * height / short)), Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("size", [(300, 400), (128, 128), (97, 210), (200, 150), (40, 44)])
def test_encoder_transform_agrees_with_pillow(size: tuple[int, int]) -> None:
    image = picture(1, *size)
    out = EncoderTransform(64)(image)
    assert out.dtype == torch.uint8
    assert out.shape == (3, 64, 64)
    difference = abs(out.permute(1, 2, 0).numpy().astype(int) - reference(image, 64))
    assert difference.max() <= 1


def test_encoder_transform_of_an_image_of_its_size_changes_nothing() -> None:
    image = picture(2, 64, 64)
    assert torch.equal(EncoderTransform(64)(image), to_tensor(image))


def test_square_padding_loses_nothing_of_a_tall_photo() -> None:
    image = Image.new("RGB", (30, 90), (255, 0, 0))
    plain, square = EncoderTransform(30)(image), EncoderTransform(30, pad_ratio=1.0)(image)
    assert (plain[0] > 128).float().mean() > (square[0] > 128).float().mean()
    assert int((square[0, 15] > 128).sum()) == 10
    assert square[0, 1, 15] > 250
    assert square[0, -2, 15] > 250


def test_letterbox_and_crop() -> None:
    image = Image.new("RGB", (20, 40), (0, 0, 255))
    boxed = PixelTransform((32, 24))(image)
    assert boxed.shape == (3, 32, 24)
    blue = (boxed[0] == 0) & (boxed[2] == 255)
    assert int(blue.sum()) == 32 * 16
    assert boxed[:, :, 0].min() == 255
    cropped = PixelTransform((32, 24), fit="crop")(image)
    assert int(((cropped[0] == 0) & (cropped[2] == 255)).sum()) == 32 * 24


def test_proportions_are_kept_for_three_to_four() -> None:
    assert PixelTransform((64, 48))(picture(0, 768 // 4, 1024 // 4)).shape == (3, 64, 48)


def test_masks_are_hard_and_outside_is_false() -> None:
    grey = np.zeros((40, 20), np.uint8)
    grey[:20] = 255
    mask = MaskTransform((20, 20))(Image.fromarray(grey))
    assert mask.dtype == torch.bool
    assert mask.shape == (1, 20, 20)
    assert int(mask.sum()) == 10 * 10
    assert not mask[0, :, :5].any()


@pytest.mark.parametrize(
    "make", [lambda: EncoderTransform(0), lambda: PixelTransform((0, 4)), lambda: PixelTransform((4, 4), fit="x")]
)  # type: ignore[arg-type]
def test_wrong_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()  # type: ignore[operator]


def test_off_the_cpu_pictures_are_resized_by_a_kernel_that_gpus_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """The antialiased bicubic one of GPUs takes floats alone; its pictures are within 1 of those on the CPU."""
    kinds: list[torch.dtype] = []
    interpolate = torch.nn.functional.interpolate

    def kernel(x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        kinds.append(x.dtype)
        return interpolate(x.cpu() if x.device.type == "cpu" else torch.zeros(x.shape), *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "interpolate", kernel)
    photo = to_tensor(picture(3, 60, 80))
    small = resize(photo, 45, 40)
    elsewhere = resize(photo.to("meta"), 45, 40)
    assert kinds == [torch.uint8, torch.float32]
    assert (elsewhere.shape, elsewhere.dtype) == (small.shape, torch.uint8)
    exact = interpolate(photo[None].float(), (45, 40), mode="bicubic", antialias=True)[0].round().clamp(0, 255)
    assert (small.float() - exact).abs().max() <= 1
