"""Where the square lies, against the formulas of target_pad (CLIP4Cir) and torchvision's resize and centre crop."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.functional import center_crop, resize  # type: ignore[import-untyped]

from unifashion_pl.data.geometry import bars, square


@pytest.mark.parametrize("size", [(533, 400), (400, 533), (100, 81), (100, 80), (7, 300), (64, 64)])
def test_bars_bring_the_sides_to_the_ratio(size: tuple[int, int]) -> None:
    x, y = bars(*size, 1.25)
    height, width = size[0] + 2 * y, size[1] + 2 * x
    if max(size) < 1.25 * min(size):
        assert (x, y) == (0, 0)
    else:
        assert abs(min(height, width) - max(size) / 1.25) <= 2
        assert max(height, width) == max(size)


@pytest.mark.parametrize("size", [(533, 426), (301, 257), (65, 64), (64, 64), (90, 700)])
def test_the_square_is_torchvision_s(size: tuple[int, int]) -> None:
    (height, width), (top, left) = square(*size, 64)
    ramp = torch.arange(height * width, dtype=torch.float32).view(1, height, width)
    assert resize(torch.zeros(1, *size), 64).shape[1:] == (height, width)
    assert torch.equal(center_crop(ramp, [64, 64]), ramp[:, top : top + 64, left : left + 64])
