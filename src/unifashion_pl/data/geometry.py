"""Where the encoder's square lies in a picture: plain numbers, the same for torch and for numpy. Sides are in pixels."""

from __future__ import annotations

#: Ratio of the sides that :func:`bars` brings a picture to where nothing else is said.
PAD_RATIO = 1.25


def bars(height: int, width: int, ratio: float) -> tuple[int, int]:
    """(x, y): widths of the bars on the left and on the right, above and below, of a picture whose longer side is at least ``ratio`` times the shorter one.

    >>> bars(533, 400, 1.25)
    (13, 0)
    """
    if max(width, height) < ratio * min(width, height):
        return 0, 0
    side = max(width, height) / ratio
    return max(int((side - width) / 2), 0), max(int((side - height) / 2), 0)


def square(height: int, width: int, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of a picture whose shorter side becomes ``size``: its new (height, width), and (top, left) of the square in its middle.

    >>> square(533, 426, 64)
    ((80, 64), (8, 0))
    """
    short = min(height, width)
    height, width = size * height // short, size * width // short
    return (height, width), (round((height - size) / 2), round((width - size) / 2))
