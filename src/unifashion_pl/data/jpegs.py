"""Pixels of ordinary JPEG files straight into an array, by libjpeg-turbo.

Pillow decodes by the same library, but into four bytes a pixel, which are copied once more for an array. What is decoded here is what Pillow decodes,
value for value (tests/data/test_jpegs.py), or nothing: at the first thing that is odd in a header, or that the library remarks on, Pillow decides.
Without simplejpeg Pillow decodes all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

try:
    import simplejpeg
except ImportError:  # a platform without its wheel
    simplejpeg = None

#: Pillow's mode of a JPEG -> simplejpeg's name of its colours, and how many there are.
COLOURS = {"RGB": ("RGB", 3), "L": ("GRAY", 1)}
SCAN, TABLES = 0xDA, (0xC4, 0xDB, 0xDD)
BASELINE, PROGRESSIVE = 0xC0, 0xC2
#: Applications' segments -> how those begin that say nothing of the picture, and the least length; others may (EXIF, several pictures) or are odd.
KNOWN = {
    0xE0: (b"JFIF\0", 16),
    0xE1: (b"http://ns.adobe.com/xap/1.0/\0", 31),
    0xE2: (b"ICC_PROFILE\0", 16),
    0xEE: (b"Adobe", 14),
}


def plain_header(data: bytes) -> tuple[str, int, int] | None:
    """Mode, width and height of a JPEG file whose header has nothing that Pillow would have to look at; None of any other.

    A header of that kind takes a twentieth of the time that Pillow takes to read it.
    """
    found, place, last = None, 2, len(data) - 12
    while place < last and data[place] == 0xFF:
        marker, length = data[place + 1], data[place + 2] << 8 | data[place + 3]
        if marker == SCAN:
            return found
        if marker in (BASELINE, PROGRESSIVE):
            mode = {1: "L", 3: "RGB"}.get(data[place + 9])
            if found or mode is None or data[place + 4] != 8:
                return None
            found = mode, data[place + 7] << 8 | data[place + 8], data[place + 5] << 8 | data[place + 6]
            if 0 in found:
                return None
        elif marker in KNOWN:
            start, least = KNOWN[marker]
            if length < least or not data.startswith(start, place + 4):
                return None
        elif marker not in TABLES:
            return None
        place += 2 + length
    return None


def jpeg_pixels(data: bytes, mode: str, width: int, height: int) -> NDArray[np.uint8] | None:
    """A whole and undamaged JPEG file -> (H, W, 3) of mode RGB, (H, W) of mode L, as it is stored; None where it is another, or may be.

    Args:
        mode, width, height: of its header, already compared with what is allowed; nothing larger is made.
    """
    if simplejpeg is None or mode not in COLOURS:
        return None
    colours, channels = COLOURS[mode]
    room = np.empty((height, width, channels), np.uint8)
    try:
        made: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colours, buffer=room, strict=True)
    except Exception:  # a foreign decoder; Pillow decodes the file again and names what is wrong
        return None
    if made.shape != room.shape:
        return None
    return made if channels > 1 else made[..., 0]
