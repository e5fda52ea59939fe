"""Image bytes -> PIL, with one stated rule for every mode and one named reason for every failure.

The one opener of pictures: training, shards, checks, search, captions, try-on and annotation all come through :func:`decode_picture`, so that a
file is good or bad everywhere alike. Decoders are other people's and may raise anything; what leaves here is :class:`BadInput`. Damaged
metadata never costs the pixels.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from unifashion_pl.data import formats
from unifashion_pl.data.formats import BadInput as BadInput
from unifashion_pl.data.formats import encode_jpeg as encode_jpeg
from unifashion_pl.data.formats import encode_png as encode_png
from unifashion_pl.data.formats import sniff as sniff
from unifashion_pl.data.jpegs import jpeg_pixels, plain_header

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 80_000_000
#: Transforms pad long pictures to nearly square ones, so that a side costs by its square.
MAX_SIDE = 16_384
#: Each scan of a progressive JPEG goes over all pixels: a small file may ask for hours.
MAX_SCANS = 50 * MAX_PIXELS
#: Bytes of the shortest scan.
SCAN = 10
PASSED_THROUGH = ("jpg", "png")
#: No picture within :data:`MAX_PIXELS` needs more, even uncompressed at 16 bits.
MAX_BYTES = 1 << 30
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")
#: Modes that become RGB whatever the pixels are; of all others this is tried before a picture counts as good.
PLAIN = ("1", "L", "LA", "RGB", "RGBA", "CMYK", "F", *WIDE)
#: Bytes that tell a format.
HEAD = 4096
#: Pictures with damaged metadata that are named; a folder may be full of them.
NAMED = 20
_mentioned: set[int] = set()

# Pillow's remarks about metadata name no file. What matters of them is said here, with the file's name.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True)
class Decoded:
    """A completely decoded picture.

    Attributes:
        pixels: upright; an image in its own mode, or those of an ordinary JPEG: (H, W, 3), (H, W) if it is grey.
        kind: format, a key of :data:`unifashion_pl.data.formats.FORMATS`.
        turned: whether its orientation was another than it is stored in.
        flaw: what is wrong with its metadata, "" if nothing is.
        info: what Pillow found in the file beside pixels, {} of JPEG files that it need not look at; foreign, and to be used with care.
    """

    pixels: Image.Image | NDArray[np.uint8]
    kind: str
    turned: bool
    flaw: str
    info: Mapping[str, Any]

    @cached_property
    def image(self) -> Image.Image:
        """Upright, in its own mode, with nothing of the file's metadata but transparency."""
        return self.pixels if isinstance(self.pixels, Image.Image) else Image.fromarray(self.pixels)

    def rgb(self) -> NDArray[np.uint8]:
        """The pixels of :func:`to_rgb`, (H, W, 3); not to be written to."""
        if not isinstance(self.pixels, Image.Image) and self.pixels.ndim == 3:
            return self.pixels
        return np.array(to_rgb(self.image))


def decode_picture(data: bytes) -> Decoded:
    """Decode completely, turn upright, and make sure that the pixels can become RGB.

    Raises:
        BadInput: empty, of another type, truncated, damaged or larger than is allowed.
    """
    kind = sniff(data)
    try:
        return _open(data, kind)
    except BadInput:
        raise
    except Exception as error:  # decoders are foreign: TypeError, struct.error, RuntimeError, MemoryError … were all seen
        bare = formats.without_metadata(data, kind)
        if bare is not None and bare != data:
            with suppress(Exception):
                return replace(_open(bare, kind), flaw=f"its metadata cannot be read ({_short(error)})")
        raise BadInput(_reason(kind, error)) from error


def open_image(data: bytes, name: str = "") -> Image.Image:
    """The image of :func:`decode_picture`: upright, in its own mode.

    Args:
        name: of the file; damaged metadata are mentioned with it, once.

    Raises:
        BadInput: as :func:`decode_picture`.
    """
    return open_picture(data, name).image


def open_picture(data: bytes, name: str = "") -> Decoded:
    """:func:`decode_picture`, with damaged metadata mentioned as by :func:`open_image`.

    Raises:
        BadInput: as :func:`decode_picture`.
    """
    picture = decode_picture(data)
    mention(picture.flaw, name, data)
    return picture


def open_file(path: Path) -> Image.Image:
    """:func:`open_image` of a file.

    Raises:
        BadInput: as :func:`read_bytes` and :func:`decode_picture`.
    """
    return open_image(read_bytes(path), str(path))


def look(path: Path) -> None:
    """Look at a file's header: format and size, in a fraction of the time that decoding takes. What looks strange is decoded, which decides.

    Raises:
        BadInput: as :func:`open_file`; pixels that are damaged behind a good header are not found.
    """
    with suppress(Exception):
        if stat.S_ISREG(path.stat().st_mode):
            with open(path, "rb") as file:
                kind = sniff(file.read(HEAD))
                if kind != "ico":  # Pillow decodes them on opening
                    check_size(*Image.open(file, formats=[formats.FORMATS[kind]]).size)
                    return
    decode_picture(read_bytes(path))


def mention(flaw: str, name: str, data: object) -> None:
    """Warn of damaged metadata of a picture that is used all the same; once for each content, and not of more than a few pictures."""
    if not flaw:
        return
    content = hash(data) if isinstance(data, bytes) else hash(str(data))
    if content in _mentioned or len(_mentioned) > NAMED:
        return
    _mentioned.add(content)
    if len(_mentioned) > NAMED:
        warnings.warn(f"more than {NAMED} pictures have damaged metadata; further ones are not named", stacklevel=3)
    else:
        warnings.warn(f"{name or 'a picture'}: {flaw}; its pixels are used as they are stored", stacklevel=3)


def own_image(image: Image.Image) -> Image.Image:
    """A loaded upright copy, in its own mode, of an image that a user opened, perhaps lazily; the user's stays as it is.

    Raises:
        BadInput: truncated or damaged, too large, or opened by a plugin of Pillow's that is not used here.
    """
    if image.format is not None and image.format not in formats.PILLOW_FORMATS:
        raise BadInput(f"{image.format}, which is not opened here: make pixels of it first, by image.convert('RGB')")
    with _guard(image.format or "image"):
        check_size(*image.size)
        image.load()
        exif = image.info.get("exif", b"")
        own, _, flaw = _without_metadata(image, exif)
    mention(flaw, str(getattr(image, "filename", "") or "an image"), exif)
    return own


def _open(data: bytes, kind: str) -> Decoded:
    if kind == "jpg" and (header := plain_header(data)) is not None and (plain := _jpeg(data, *header)) is not None:
        return Decoded(plain, kind, False, "", {})
    for inside in formats.inside_icon(data) if kind == "ico" else ():  # Pillow decodes icons on opening
        check_size(*inside)
    image = Image.open(BytesIO(data), formats=[formats.FORMATS[kind]])
    check_size(*image.size)
    if kind == "tiff":
        # Pillow turns TIFFs itself, on loading, and parses all of their EXIF for it
        exif = {ORIENTATION: image.tag_v2.get(ORIENTATION, 1)}  # type: ignore[attr-defined]
        image.getexif = Image.Exif  # type: ignore[method-assign]
    elif kind == "jpg" and (pixels := _jpeg(data, image.mode, *image.size)) is not None:
        return _upright(pixels, {str(name): value for name, value in image.info.items()})
    image.load()
    check_size(*image.size)
    info = {str(name): value for name, value in image.info.items()}
    own, turned, flaw = _without_metadata(image, exif if kind == "tiff" else info.get("exif", b""))
    return Decoded(own, kind, turned, flaw, info)


def _jpeg(data: bytes, mode: str, width: int, height: int) -> NDArray[np.uint8] | None:
    """:func:`jpeg_pixels` within the limits."""
    check_size(width, height)
    if len(data) // SCAN * width * height > MAX_SCANS and (scans := data.count(b"\xff\xda")) * width * height > MAX_SCANS:
        raise BadInput(f"a progressive JPEG of {scans:,} scans over {width} × {height} px")
    return jpeg_pixels(data, mode, width, height)


def _upright(pixels: NDArray[np.uint8], info: dict[str, Any]) -> Decoded:
    """Pixels of an ordinary JPEG with what Pillow found in its header."""
    turn, flaw = _turn(info.get("exif", b""))
    upright = pixels if turn is None else Image.fromarray(pixels).transpose(turn)
    return Decoded(upright, "jpg", turn is not None, flaw, info)


def check_size(width: int, height: int) -> None:
    """Compare a picture's declared size with :data:`MAX_PIXELS` and :data:`MAX_SIDE`, before anything is made for it.

    Raises:
        BadInput: it is larger, or has no pixels.
    """
    if min(width, height) < 1:
        raise BadInput(f"{width} × {height} px, expected at least one pixel")
    if width * height > MAX_PIXELS:
        raise BadInput(f"{width} × {height} px, allowed are {MAX_PIXELS:,} pixels")
    if max(width, height) > MAX_SIDE:
        raise BadInput(f"{width} × {height} px, allowed are {MAX_SIDE:,} pixels a side")


def _without_metadata(image: Image.Image, exif: Any) -> tuple[Image.Image, bool, str]:
    """A loaded image as an upright copy without metadata, whether it was turned, and what is wrong with its EXIF."""
    turn, flaw = _turn(exif)
    image = image.copy() if turn is None else image.transpose(turn)  # either leaves EXIF that Pillow has parsed behind
    image.info = {name: value for name, value in image.info.items() if name == "transparency"}
    if image.mode not in PLAIN or image.info:
        to_rgb(image)
    return image, turn is not None, flaw


def _turn(exif: Any) -> tuple[Image.Transpose | None, str]:
    try:
        read = formats.check_orientation(exif[ORIENTATION]) if isinstance(exif, dict) else formats.orientation(bytes(exif))
    except (ValueError, TypeError) as error:
        return None, f"its EXIF is damaged ({error}), so that its orientation is unknown"
    return TURNS.get(read), ""


@contextmanager
def _guard(what: str) -> Iterator[None]:
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(_reason(what, error)) from error


def _reason(kind: str, error: Exception) -> str:
    text = str(error).lower()
    if isinstance(error, UnidentifiedImageError):
        return f"damaged {kind} header"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {MAX_PIXELS:,} pixels"
    if "truncat" in text or "broken data stream" in text:
        return "truncated"
    return f"damaged: {_short(error)}"


def _short(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its header is damaged"
    return " ".join(str(error).split())[:120] or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image -> RGB: EXIF orientation applied, alpha laid over white, palettes and CMYK converted, 16 bits scaled to 8."""
    turn, _ = _turn(image.info.get("exif", b""))
    if turn is not None:
        image = image.transpose(turn)
        image.info.pop("exif")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in WIDE:
        wide = np.asarray(image, np.int64)
        return Image.fromarray((wide.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, np.float32))
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def read_bytes(path: Path) -> bytes:
    """Content of a file.

    Raises:
        BadInput: ``missing``, ``empty file``, no file (a pipe or a device, which may never end), too large, or the system's reason.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise BadInput("a folder, not a file")
        if not stat.S_ISREG(found.st_mode):
            raise BadInput("a device or a pipe, not a file")
        if found.st_size > MAX_BYTES:
            raise BadInput(f"{found.st_size:,} bytes, allowed are {MAX_BYTES:,}")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput("missing") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadInput(getattr(error, "strerror", None) or str(error)) from error
    if not data:
        raise BadInput("empty file")
    return data


def channels_last(pixels: Tensor | NDArray[Any]) -> NDArray[Any]:
    """Pixels as an array (H, W) or (H, W, C), on the CPU; tensors have their channels first."""
    if isinstance(pixels, np.ndarray):
        return pixels
    array: NDArray[Any] = pixels.detach().cpu().numpy()
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8] | None:
    """uint8 pixels as they are, bool as 0 and 255, floats of 0..1 as 0..255; None of any others."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if np.issubdtype(array.dtype, np.floating) and array.min(initial=0) >= 0 and array.max(initial=0) <= 1:
        return np.ascontiguousarray(np.rint(array * 255).astype(np.uint8))
    return None


def to_store(data: bytes, picture: Decoded) -> tuple[str, bytes, Image.Image]:
    """:func:`stored` with the decoded image itself."""
    kind, kept, shown = stored(data, picture)
    return kind, kept, shown.image


def stored(data: bytes, picture: Decoded) -> tuple[str, bytes, Decoded]:
    """What a shard stores of an image file and its decoded picture: (``jpg`` or ``png``, bytes, the picture as it is stored).

    JPEG and PNG pass byte for byte, whatever the file is called; other formats become PNG.
    """
    if picture.kind in PASSED_THROUGH:
        return picture.kind, data, picture
    with _guard(picture.kind):
        rgb = to_rgb(picture.image)
        return "png", encode_png(rgb), replace(picture, pixels=rgb)
