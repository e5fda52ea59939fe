"""From a decoded picture to the uint8 tensors of a batch; plain callables without state, so they travel to spawned workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Transform = Callable[[Image.Image], Tensor]
WHITE = (255, 255, 255)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as RGB: transparency over white, 16-bit grey by its upper byte, 32-bit grey clipped to 0–255.

    Conversion comes before every resize, since interpolating palette indices makes up colours.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8), "L").convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(np.clip(np.asarray(image), 0, 255).astype(np.uint8), "L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*WHITE, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def target_pad(image: Image.Image, ratio: float = 1.25) -> Image.Image:
    """Black bars on both long sides that bring long/short down to about ``ratio``; pictures below it are returned as they are.

    >>> target_pad(Image.new("RGB", (400, 533))).size
    (426, 533)
    """
    width, height = image.size
    if max(image.size) / min(image.size) < ratio:
        return image
    wanted = max(image.size) / ratio
    across, down = (max(int((wanted - side) / 2), 0) for side in (width, height))
    padded = Image.new(image.mode, (width + 2 * across, height + 2 * down))
    padded.paste(image, (across, down))
    return padded


def to_tensor(image: Image.Image) -> Tensor:
    """RGB or L picture -> uint8 (C, H, W)."""
    array = np.array(image)
    if array.ndim == 2:
        array = array[:, :, None]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class EncoderTransform:
    """RGB, :func:`target_pad`, short side to ``size`` (bicubic, antialiased), centre crop: uint8 (3, size, size)."""

    size: int
    ratio: float = 1.25

    def __call__(self, image: Image.Image) -> Tensor:
        """Picture of any mode and size -> uint8 (3, size, size)."""
        image = target_pad(to_rgb(image), self.ratio)
        width, height = image.size
        short = min(width, height)
        if short != self.size:
            width, height = (self.size if s == short else max(int(self.size * s / short), self.size) for s in (width, height))
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        if (width, height) != (self.size, self.size):
            image = image.crop((left, top, left + self.size, top + self.size))
        return to_tensor(image)


@dataclass(frozen=True)
class GenerationTransform:
    """Whole picture scaled into ``size`` = (H, W) pixels with its own proportions, the rest filled: uint8 (C, H, W).

    Attributes:
        size: (height, width).
        fill: grey level 0–255 of the bars.
        mode: ``RGB`` or ``L``.
        nearest: nearest neighbour instead of antialiased bicubic (masks).
    """

    size: tuple[int, int]
    fill: int = 255
    mode: str = "RGB"
    nearest: bool = False

    def __call__(self, image: Image.Image) -> Tensor:
        """Picture of any mode and size -> uint8 (3, H, W), or (1, H, W) for mode ``L``."""
        image = to_rgb(image) if self.mode == "RGB" else image.convert(self.mode)
        height, width = self.size
        scale = min(width / image.width, height / image.height)
        inner = (min(width, max(1, round(image.width * scale))), min(height, max(1, round(image.height * scale))))
        if image.size != inner:
            image = image.resize(inner, Image.Resampling.NEAREST if self.nearest else Image.Resampling.BICUBIC)
        if inner != (width, height):
            ground = Image.new(self.mode, (width, height), self.fill if self.mode == "L" else (self.fill,) * 3)
            ground.paste(image, ((width - inner[0]) // 2, (height - inner[1]) // 2))
            image = ground
        return to_tensor(image)


def encoder_transform(size: int) -> EncoderTransform:
    """What the vision tower sees of a picture: uint8 (3, size, size); see :class:`EncoderTransform`.

    Raises:
        ValueError: if ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"image size is {size}; expected a positive number of pixels")
    return EncoderTransform(size)


def generation_transform(size: tuple[int, int]) -> GenerationTransform:
    """What the diffusion head is to paint: uint8 (3, H, W), letterboxed in white; see :class:`GenerationTransform`.

    Raises:
        ValueError: if ``size`` is not two positive numbers (H, W).
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"pixel size is {size}; expected (height, width) in pixels, e.g. (512, 384)")
    return GenerationTransform((int(size[0]), int(size[1])))
