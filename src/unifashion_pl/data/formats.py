"""Which files are pictures: told by their bytes, one list for training, checking and searching; and what surrounds the
pixels.

Nothing here is handed to a decoder. Formats that start programs (PostScript, PDF, Windows metafiles) and Pillow's odd ones are not in the
list and are named instead.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Literal

from PIL import Image, features
from PIL import __version__ as pillow

#: Our name of a format -> Pillow's, for ``Image.open(formats=...)``. MPO, two pictures in one JPEG, is read as ``JPEG``.
FORMATS = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
    "avif": "AVIF",
    "jp2": "JPEG2000",
    "ppm": "PPM",
    "ico": "ICO",
    "tga": "TGA",
    "heic": "HEIF",
}
#: Those that an image of a user's own may come from.
PILLOW_FORMATS = frozenset({*FORMATS.values(), "MPO", "DIB"})
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),
    (b"\x00\x00\x01\x00", "ico"),
    *((b"P%c%c" % (number, blank), "ppm") for number in b"123456" for blank in b" \t\r\n"),
)
#: Starts of files that people take for pictures, and what to do about them.
OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "Git LFS pointer, not an image"),
    (b"%!PS", "PostScript, a program and not a picture: save it as PNG or JPEG"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS), a program and not a picture: save it as PNG or JPEG"),
    (b"%PDF", "PDF, not a picture: save its page as PNG or JPEG"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile, not a picture: save it as PNG or JPEG"),
    (b"\x01\x00\x00\x00l\x00\x00\x00", "a Windows metafile, not a picture: save it as PNG or JPEG"),
    (b"8BPS", "a Photoshop file: save it as PNG or JPEG"),
    (b"\xff\x0a", "JPEG XL, which Pillow cannot read: convert it to JPEG"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL, which Pillow cannot read: convert it to JPEG"),
    (b"PK\x03\x04", "a zip archive, not an image"),
    (b"\x1f\x8b", "a gzip archive, not an image"),
    (b"\x89HDF", "HDF5, not an image"),
)
AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
HEIC = "HEIC, which Pillow cannot read: convert it to JPEG, or pip install pillow-heif and call pillow_heif.register_heif_opener() first"
OLD_PILLOW = "{}, which this Pillow ({}) cannot read: pip install -U pillow, or convert it to JPEG"
#: Format -> Pillow's name of the library that it may be built without.
NEEDS = {"avif": "avif", "webp": "webp", "jp2": "jpg_2000"}


class BadInput(Exception):
    """A file that cannot be used.

    Attributes:
        reason: e.g. ``missing``, ``empty file``, ``text/html, not an image``, ``truncated``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def sniff(data: bytes) -> str:
    """Format by content, not by name: a key of :data:`FORMATS`.

    Raises:
        BadInput: something else, or a format that the installed Pillow cannot read; with its name and its cure where it is known.
    """
    if not data:
        raise BadInput("empty file")
    kind = next((name for start, name in SIGNATURES if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "webp"
    if data[4:8] == b"ftyp":
        kind = _media(data)
    if kind is None:
        _refuse_others(data)
        if not _is_tga(data):
            raise BadInput(f"unknown format (starts with {data[:8].hex(' ')})")
        kind = "tga"
    if kind == "heic" and "HEIF" not in Image.OPEN:
        raise BadInput(HEIC)
    if kind in NEEDS and NEEDS[kind] not in features.get_supported() and not _plugged_in(kind):
        raise BadInput(OLD_PILLOW.format(FORMATS[kind], pillow))
    return kind


def _plugged_in(kind: str) -> bool:
    """Whether somebody's plugin reads it for a Pillow that does not know the format yet."""
    return FORMATS[kind] in Image.OPEN and NEEDS.get(kind) not in {*features.modules, *features.codecs}


def _media(data: bytes) -> str:
    """AVIF or HEIC by the brands of an ISO media file."""
    size = min(max(int.from_bytes(data[:4], "big"), 16), 256)
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, size, 4))}
    if brands & AVIF_BRANDS:
        return "avif"
    if brands & HEIF_BRANDS:
        return "heic"
    raise BadInput(f"a video or another media file ({data[8:12].decode('latin-1').strip()}), not an image")


def _refuse_others(data: bytes) -> None:
    for start, what in OTHERS:
        if data.startswith(start):
            raise BadInput(what)
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        raise BadInput("text/html, not an image")
    if head.startswith((b"<?xml", b"<svg")):
        raise BadInput("XML, not a bitmap image")
    if head.startswith((b"{", b"[")):
        raise BadInput("JSON, not an image")


def _is_tga(data: bytes) -> bool:
    """TGA has no signature: its header has to make sense."""
    if len(data) < 18:
        return False
    width, height = int.from_bytes(data[12:14], "little"), int.from_bytes(data[14:16], "little")
    known = data[1] in (0, 1) and data[2] in (1, 2, 3, 9, 10, 11) and data[16] in (1, 8, 16, 24, 32)
    return known and data[1] == (data[2] in (1, 9)) and width > 0 and height > 0


def inside_icon(data: bytes) -> Iterator[tuple[int, int]]:
    """Sizes of the pictures in an ICO file, which its directory does not tell: (width, height)."""
    for entry in range(int.from_bytes(data[4:6], "little")):
        place = 6 + 16 * entry
        if place + 16 > len(data):
            return
        start = int.from_bytes(data[place + 12 : place + 16], "little")
        inner = data[start : start + 24]
        if len(inner) < 24:
            continue
        width, height = (
            struct.unpack(">2I", inner[16:24]) if inner.startswith(b"\x89PNG") else struct.unpack("<2i", inner[4:12])
        )
        yield abs(width), abs(height)


def without_metadata(data: bytes, kind: str) -> bytes | None:
    """The same pixels without EXIF, profiles, texts and further pictures; None where we do not know how to take them out."""
    if kind in ("jpg", "png"):
        return b"".join((_jpeg_parts if kind == "jpg" else _png_parts)(data))
    return _renamed_exif(data) if kind == "avif" else None


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """Segments that say something about the pixels: all but comments and applications' own; JFIF and Adobe tell the colours."""
    yield data[:2]
    place = 2
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == 0xDA:
            break
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # padding, and markers without a length
            place += 1 if marker == 0xFF else 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in (0xE0, 0xEE) or (not 0xE0 <= marker <= 0xEF and marker != 0xFE):
            yield data[place:end]
        place = end
    yield data[place:]


def _png_parts(data: bytes) -> Iterator[bytes]:
    yield data[:8]
    place = 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            yield data[place:end]
        place = end


def _renamed_exif(data: bytes) -> bytes | None:
    """The EXIF item of an AVIF gets a name that nobody reads; places of all other items stay."""
    start = data.find(b"meta", 0, 512)
    if start < 4:
        return None
    end = start - 4 + int.from_bytes(data[start - 4 : start], "big")
    return data[:start] + data[start:end].replace(b"Exif", b"skip") + data[end:]


def orientation(exif: bytes) -> int:
    """EXIF's orientation, 1…8; 1 where none is said. Only this one field is read, whatever the state of the others.

    Raises:
        ValueError: the block is damaged before the field, or the field is no orientation.
    """
    while exif.startswith(b"Exif\x00\x00"):
        exif = exif[6:]
    if not exif:
        return 1
    if exif[:4] not in (b"II*\x00", b"MM\x00*"):
        raise ValueError("it has no TIFF header")
    order: Literal["little", "big"] = "little" if exif.startswith(b"II") else "big"

    def number(place: int, size: int) -> int:
        found = exif[place : place + size]
        if len(found) < size:
            raise ValueError("it is cut off")
        return int.from_bytes(found, order)

    start = number(4, 4)
    for entry in range(number(start, 2)):
        place = start + 2 + 12 * entry
        if number(place, 2) == 0x0112:
            return check_orientation(number(place + 8, 4 if number(place + 2, 2) == 4 else 2))
    return 1


def check_orientation(value: object) -> int:
    """1…8; 0, which some cameras write, is 1.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, int) or not 0 <= value <= 8:
        raise ValueError(f"its orientation is {str(value)[:20]}, expected 1 to 8")
    return value or 1


def encode(image: Image.Image, kind: str, **settings: Any) -> bytes:
    """The bytes of an image file; settings are Pillow's."""
    buffer = BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def encode_jpeg(image: Image.Image, quality: int = 95) -> bytes:
    """JPEG without chroma subsampling; ``quality`` as Pillow counts it."""
    return encode(image, "JPEG", quality=quality, subsampling=0)


def encode_png(image: Image.Image) -> bytes:
    """PNG of the image's own mode, palettes untouched."""
    return encode(image, "PNG")
