"""PIL -> uint8 tensors: what the vision tower sees and what the diffusion head paints. Models normalise, not these.

S is the encoder's side, (H, W) the generation size, all in pixels. Resizing is antialiased bicubic on uint8, within 1 of Pillow's.
In memory the colours of a pixel stay side by side from the decoder to the batch (torch's ``channels_last``): laying them apart takes as long as resizing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unifashion_pl.data.decode import to_rgb
from unifashion_pl.data.formats import encode
from unifashion_pl.data.geometry import PAD_RATIO, bars, square

Fit = Literal["letterbox", "crop"]
BLACK, GREY, WHITE = 0, 128, 255
#: A person, grey where it is repainted: a picture made of the fields ``person`` and ``mask``.
GREYED = "greyed"
MASK_THRESHOLD = 128
THUMBNAIL = 128


def to_tensor(image: Image.Image | NDArray[np.uint8]) -> Tensor:
    """PIL image of any mode, or RGB pixels (h, w, 3), which are not copied -> uint8 RGB (3, h, w)."""
    pixels = np.array(to_rgb(image)) if isinstance(image, Image.Image) else image
    return torch.from_numpy(pixels).permute(2, 0, 1)


def single(image: Tensor) -> Tensor:
    """(C, h, w) -> a batch of one, (1, C, h, w), as torch expects it in memory: colours that lie side by side go on doing so."""
    return image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)


def to_pil(image: Tensor) -> Image.Image:
    """uint8 (3, H, W) on any device -> PIL RGB."""
    return Image.fromarray(image.detach().to("cpu", torch.uint8).permute(1, 2, 0).contiguous().numpy(), "RGB")


def thumbnail(image: Tensor, side: int = THUMBNAIL) -> bytes:
    """uint8 image (3, H, W) -> JPEG bytes, longer side at most ``side`` pixels."""
    picture = to_pil(image)
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    return encode(picture, "JPEG", quality=85)


def png(image: Tensor) -> bytes:
    """uint8 image (3, H, W) -> PNG bytes."""
    return encode(to_pil(image), "PNG", optimize=True)


def resize(image: Tensor, height: int, width: int, *, nearest: bool = False) -> Tensor:
    """uint8 (C, h, w) -> uint8 (C, height, width)."""
    if image.shape[1:] == (height, width):
        return image
    if nearest:
        return F.interpolate(single(image), (height, width), mode="nearest-exact")[0]
    if image.device.type == "cpu":
        return F.interpolate(single(image), (height, width), mode="bicubic", antialias=True)[0]
    # GPUs have no kernel of it for uint8
    resized = F.interpolate(image[None].float(), (height, width), mode="bicubic", antialias=True)[0]
    return resized.round_().clamp_(BLACK, WHITE).to(torch.uint8)


def target_pad(image: Tensor, ratio: float = PAD_RATIO) -> Tensor:
    """Black bars beside an image (C, h, w) whose longer side is at least ``ratio`` times the shorter one.

    The bars bring the sides' ratio to ``ratio``, in whole pixels per bar: 400 × 533 (w × h) becomes 426 × 533.
    """
    _, height, width = image.shape
    x, y = bars(height, width, ratio)
    return _padded(image, x, y, height + 2 * y, width + 2 * x, BLACK) if x or y else image


def _padded(image: Tensor, left: int, top: int, height: int, width: int, fill: int) -> Tensor:
    """An image (C, h, w) inside a larger one of one value; ``F.pad`` would lay its colours apart."""
    across, down = slice(left, left + image.shape[2]), slice(top, top + image.shape[1])
    if image.device.type != "cpu":
        frame = torch.full((height, width, image.shape[0]), fill, dtype=image.dtype, device=image.device)
        frame[down, across] = image.permute(1, 2, 0)
        return frame.permute(2, 0, 1)
    pixels = image.permute(1, 2, 0).numpy()  # which copies whole rows at once
    bars = np.empty((height, width, image.shape[0]), pixels.dtype)
    bars[: down.start], bars[down.stop :] = fill, fill
    bars[down, : across.start], bars[down, across.stop :], bars[down, across] = fill, fill, pixels
    return torch.from_numpy(bars).permute(2, 0, 1)


class EncoderTransform:
    """Image -> uint8 (3, S, S): TargetPad, shorter side to S, centre crop; the same in training and evaluation.

    Args:
        size: S.
        pad_ratio: of :func:`target_pad`; 1.0 pads to a square, so that nothing of a tall photo is cropped away; None pads nothing.
    """

    def __init__(self, size: int, pad_ratio: float | None = PAD_RATIO) -> None:
        if size < 1:
            raise ValueError(f"image size is {size}; expected a positive number of pixels")
        self.size = size
        self.pad_ratio = pad_ratio

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        pixels = image if isinstance(image, Tensor) else to_tensor(image)
        if self.pad_ratio is not None:
            pixels = target_pad(pixels, self.pad_ratio)
        (height, width), (top, left) = square(pixels.shape[1], pixels.shape[2], self.size)
        return resize(pixels, height, width)[:, top : top + self.size, left : left + self.size]


class PixelTransform:
    """Image -> uint8 (C, H, W) at generation size, proportions kept.

    Args:
        size: (H, W).
        fit: ``letterbox`` shows the whole image with bars, ``crop`` fills the frame and loses the overhang on both sides equally.
        fill: value of the bars; white, as shop photos have.
        nearest: for labels and hard masks.
    """

    def __init__(self, size: tuple[int, int], fit: Fit = "letterbox", fill: int = WHITE, nearest: bool = False) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"pixel size is {size}; expected (height, width) in pixels, e.g. (512, 384)")
        if fit not in ("letterbox", "crop"):
            raise ValueError(f"unknown fit {fit!r}; expected letterbox or crop")
        self.size = (int(size[0]), int(size[1]))
        self.fit = fit
        self.fill = fill
        self.nearest = nearest

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        pixels = image if isinstance(image, Tensor) else to_tensor(image)
        _, height, width = pixels.shape
        scales = self.size[0] / height, self.size[1] / width
        scale = min(scales) if self.fit == "letterbox" else max(scales)
        fitted = resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)), nearest=self.nearest)
        dy, dx = self.size[0] - fitted.shape[1], self.size[1] - fitted.shape[2]
        top, left = max(-dy, 0) // 2, max(-dx, 0) // 2
        fitted = fitted[:, top : top + self.size[0], left : left + self.size[1]]
        if dy > 0 or dx > 0:
            fitted = _padded(fitted, max(dx, 0) // 2, max(dy, 0) // 2, *self.size, self.fill)
        return fitted


class MaskTransform(PixelTransform):
    """Grey image -> bool (1, H, W), True where it is 128 or lighter; bars are False."""

    def __init__(self, size: tuple[int, int], fit: Fit = "letterbox") -> None:
        super().__init__(size, fit, fill=BLACK, nearest=True)

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        grey = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image.convert("L")))[None]
        return super().__call__(grey) >= MASK_THRESHOLD
