"""A picture as the vision tower takes it, by numpy alone: value for value what :class:`unifashion_pl.data.transforms.EncoderTransform` makes on a CPU.

torch resizes bytes with whole numbers (``upsample_bicubic2d`` with antialiasing, in the way of Pillow-SIMD): weights of 16 bits, sums of 32, one
rounding after the rows and one after the columns. Letters: (h, w) a picture's size, S the encoder's side, K taps of a filter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifashion_pl.data.geometry import PAD_RATIO, bars, square

#: Parameter of the cubic, and its half width.
CUBIC, REACH = -0.5, 2.0
#: Weights have at most so many bits after the point, and fit 16 bits with their sign.
MOST_BITS, WORD = 22, 1 << 15
Pixels = NDArray[np.uint8]


class Taps(NamedTuple):
    """What an output pixel is the weighted sum of.

    Attributes:
        starts: (n,) first input pixel of each output pixel. weights: of each, as whole numbers with ``bits`` bits after the point.
    """

    starts: list[int]
    weights: list[NDArray[np.int32]]
    bits: int


def encoder_pixels(picture: Pixels, size: int, pad_ratio: float | None = PAD_RATIO) -> Pixels:
    """RGB (h, w, 3) -> (3, S, S).

    Args:
        size: S. pad_ratio: see :func:`unifashion_pl.data.geometry.bars`; None pads nothing.
    """
    height, width = picture.shape[:2]
    x, y = (0, 0) if pad_ratio is None else bars(height, width, pad_ratio)
    if x or y:
        picture = np.pad(picture, ((y, y), (x, x), (0, 0)))
    (height, width), (top, left) = square(picture.shape[0], picture.shape[1], size)
    rows = _resized(picture.swapaxes(0, 1), width, slice(left, left + size)).swapaxes(0, 1)
    return np.ascontiguousarray(_resized(rows, height, slice(top, top + size)).transpose(2, 0, 1))


def _resized(picture: Pixels, length: int, wanted: slice) -> Pixels:
    """Of a picture (n, m, 3) that becomes (``length``, m, 3) the ``wanted`` part along its first axis."""
    if len(picture) == length:
        return picture[wanted]
    taps = _taps(len(picture), length)
    half = np.int32(1 << (taps.bits - 1))
    out = np.empty((wanted.stop - wanted.start, *picture.shape[1:]), np.uint8)
    for place, number in enumerate(range(wanted.start, wanted.stop)):
        start, weights = taps.starts[number], taps.weights[number]
        total = np.einsum("k...,k->...", picture[start : start + len(weights)], weights, dtype=np.int32) + half
        out[place] = np.clip(total >> taps.bits, 0, 255)
    return out


def _taps(length: int, new: int) -> Taps:
    """Weights that make ``new`` pixels of ``length``."""
    scale = length / new
    support = REACH * max(scale, 1.0)
    most = math.ceil(support) * 2 + 1
    starts, exact = [], []
    for number in range(new):
        center = scale * (number + 0.5)
        start = max(int(center - support + 0.5), 0)
        count = min(max(min(int(center + support + 0.5), length) - start, 0), most)
        weights = _cubic((np.arange(count, dtype=np.float64) + start - center + 0.5) * (1 / max(scale, 1.0)))
        starts.append(start)
        exact.append(weights / _sum(weights))
    largest = max(float(weights.max()) for weights in exact)
    bits = next((n for n in range(MOST_BITS) if int(0.5 + largest * (1 << (n + 1))) >= WORD), MOST_BITS)
    return Taps(starts, [np.trunc(w * (1 << bits) + np.where(w < 0, -0.5, 0.5)).astype(np.int32) for w in exact], bits)


def _sum(weights: NDArray[np.float64]) -> float:
    """One after another, as torch adds them: numpy's own sum has other last bits."""
    return float(np.add.accumulate(weights)[-1])


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic filter, in the order of torch's operations."""
    x = np.abs(x)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
    return np.where(x < 1, near, np.where(x < REACH, far, 0.0))
