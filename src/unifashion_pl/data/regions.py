"""Regions of a picture as (h, w) bool arrays: growing, shrinking, connected pieces. numpy alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def border_of(shape: tuple[int, ...]) -> Mask:
    """True in the two outermost rows and columns."""
    border = np.ones(shape, bool)
    border[2:-2, 2:-2] = False
    return border


def grow(mask: Mask, radius: float) -> Mask:
    """Widened by ``radius`` pixels (rounded) to all sides, squarely."""
    steps = round(radius)
    if steps < 1:
        return mask
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (steps + 1, steps)
        sums = np.cumsum(np.pad(mask, pad), axis=axis)
        length = mask.shape[axis]
        window = 2 * steps + 1
        mask = np.take(sums, range(window, window + length), axis) > np.take(sums, range(length), axis)
    return mask


def shrink(mask: Mask, radius: float) -> Mask:
    """Narrowed by ``radius`` pixels (rounded) from all sides; the picture's border takes nothing away."""
    return ~grow(~mask, radius)


def components(mask: Mask, *, diagonal: bool = False) -> NDArray[np.int64]:
    """Connected pieces of a mask: 0 outside, and another number for each piece (h, w), not necessarily without gaps.

    Runs of each row are numbered, and numbers that touch in neighbouring rows are merged until nothing changes.

    Args:
        diagonal: whether corners connect, too.
    """
    padded = np.pad(mask, 1)
    starts = padded & ~np.roll(padded, 1, 1)
    numbers = np.cumsum(starts).reshape(padded.shape) * padded
    upper, lower = numbers[:-1], numbers[1:]
    pairs = [np.stack([upper, np.roll(lower, shift, 1)], -1).reshape(-1, 2) for shift in ((-1, 0, 1) if diagonal else (0,))]
    touching = np.concatenate([found[(found > 0).all(1)] for found in pairs])
    root = np.arange(numbers.max(initial=0) + 1)
    while len(touching):
        lowest = np.minimum(root[touching[:, 0]], root[touching[:, 1]])
        merged = root.copy()
        for side in (0, 1):
            np.minimum.at(merged, root[touching[:, side]], lowest)
        merged = merged[merged]
        if np.array_equal(merged, root):
            break
        root = merged
    return root[numbers][1:-1, 1:-1]


def flood(allowed: Mask, seeds: Mask, *, diagonal: bool = False) -> Mask:
    """All pixels of ``allowed`` that are connected to one of ``seeds``."""
    numbers = components(allowed, diagonal=diagonal)
    reached = np.zeros(numbers.max(initial=0) + 1, bool)
    reached[numbers[allowed & seeds]] = True
    return reached[numbers] & allowed


def without_small(mask: Mask, smallest: Callable[[int], float], *, diagonal: bool = False) -> Mask:
    """Pieces with at least ``smallest(pixels of the largest)`` pixels."""
    numbers = components(mask, diagonal=diagonal)
    sizes = np.bincount(numbers[mask], minlength=numbers.max(initial=0) + 1)
    return (sizes >= smallest(int(sizes.max(initial=0))))[numbers] & mask
