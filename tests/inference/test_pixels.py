"""Pixels by numpy against those of the model's transform, value for value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.inference.pixels import encoder_pixels

#: Sizes (h, w): down and up, bars on either side, one pixel wide, exactly fitting.
SIZES = [(64, 64), (97, 61), (533, 400), (400, 533), (31, 47), (1, 1), (3, 200), (700, 90), (128, 64), (65, 64), (257, 301)]


@pytest.mark.parametrize("size", [64, 37])
@pytest.mark.parametrize("ratio", [1.25, 1.0, None])
def test_values_are_those_of_torch(size: int, ratio: float | None) -> None:
    generator = np.random.default_rng(0)
    for height, width in SIZES:
        if ratio is None and max(height, width) > 40 * min(height, width):
            continue
        noise = generator.integers(0, 256, (height, width, 3), np.uint8)
        hard = np.where(noise > 127, 255, 0).astype(np.uint8)  # overshoots are clipped
        for picture in (noise, hard):
            wanted = EncoderTransform(size, ratio)(torch.from_numpy(picture).permute(2, 0, 1)).numpy()
            found = encoder_pixels(picture, size, ratio)
            assert found.shape == (3, size, size)
            assert (found == wanted).all(), (height, width, int(np.abs(found.astype(int) - wanted).max()))
