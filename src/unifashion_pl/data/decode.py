"""Image bytes -> PIL, with one stated rule for every mode and one named reason for every failure."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
)
PASSED_THROUGH = ("jpg", "png")
MAX_PIXELS = 80_000_000


class BadInput(Exception):
    """A file that cannot be used.

    Attributes:
        reason: e.g. ``missing``, ``empty file``, ``text/html, not an image``, ``truncated``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def sniff(data: bytes) -> str:
    """Format by content, not by name: ``jpg``, ``png``, ``gif``, ``bmp``, ``tiff``, ``webp``.

    Raises:
        BadInput: nothing known starts this way.
    """
    if not data:
        raise BadInput("empty file")
    for start, name in SIGNATURES:
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        raise BadInput("text/html, not an image")
    if head.startswith((b"<?xml", b"<svg")):
        raise BadInput("XML, not a bitmap image")
    if head.startswith((b"{", b"[")):
        raise BadInput("JSON, not an image")
    if data.startswith(b"version https://git-lfs"):
        raise BadInput("Git LFS pointer, not an image")
    raise BadInput(f"unknown format (starts with {data[:8].hex(' ')})")


def open_image(data: bytes) -> Image.Image:
    """Decode completely; the mode is the file's own.

    Raises:
        BadInput: empty, of another type, truncated, damaged or larger than :data:`MAX_PIXELS`.
    """
    try:
        image = Image.open(BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise BadInput(f"{image.width} × {image.height} px, allowed are {MAX_PIXELS:,} pixels")
        image.load()
    except Image.DecompressionBombError as error:
        raise BadInput(f"more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        reason = sniff(data)
        raise BadInput(f"damaged {reason} header") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        text = str(error).lower()
        raise BadInput("truncated" if "truncat" in text or "broken data stream" in text else f"damaged: {error}") from error
    return image


def upright(image: Image.Image) -> Image.Image:
    """EXIF orientation applied, the mode kept: palettes of label maps stay what they are."""
    return ImageOps.exif_transpose(image) if image.info.get("exif") else image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image -> RGB: EXIF orientation applied, alpha laid over white, palettes and CMYK converted, 16 bits scaled to 8."""
    if image.mode == "RGB" and not image.info.get("exif") and "transparency" not in image.info:
        return image
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        wide = np.asarray(image, np.int64)
        return Image.fromarray((wide.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.asarray(image, np.float32).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def read_bytes(path: Path) -> bytes:
    """Content of a file.

    Raises:
        BadInput: ``missing``, ``empty file`` or the system's reason.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput("missing") from error
    except OSError as error:
        raise BadInput(error.strerror or str(error)) from error
    if not data:
        raise BadInput("empty file")
    return data


def encode_jpeg(image: Image.Image, quality: int = 95) -> bytes:
    """JPEG without chroma subsampling; ``quality`` as Pillow counts it."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def encode_png(image: Image.Image) -> bytes:
    """PNG of the image's own mode, palettes untouched."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def passable(data: bytes) -> tuple[str, bytes, Image.Image]:
    """What a shard stores of an image file: (``jpg`` or ``png``, bytes, decoded image).

    JPEG and PNG pass byte for byte, whatever the file is called; other formats become PNG.

    Raises:
        BadInput: as :func:`open_image`.
    """
    kind = sniff(data)
    image = open_image(data)
    if kind in PASSED_THROUGH:
        return kind, data, image
    rgb = to_rgb(image)
    return "png", encode_png(rgb), rgb
