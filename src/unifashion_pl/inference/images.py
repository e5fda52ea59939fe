"""Images that people have at hand, one or many; of many, all that cannot be read are found before any work is done for the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image
from tqdm.auto import tqdm

from unifashion_pl.arguments import Images, OneImage, is_array
from unifashion_pl.data import decode
from unifashion_pl.data.plan import shortened
from unifashion_pl.files import replacing

T = TypeVar("T")

#: Unreadable pictures that a message names.
NAMED = 20


def image_list(images: Images) -> list[OneImage]:
    """One image or many -> a list; a (B, 3, H, W) tensor is B images.

    Raises:
        ValueError: nothing given.
        TypeError: something that is no image.
    """
    if is_array(images) and images.ndim == 4:
        items: list[OneImage] = list(images)
    elif is_array(images) or isinstance(images, str | Path | Image.Image):
        items = [images]
    elif isinstance(images, Sequence) and not isinstance(images, bytes | bytearray):
        items = list(images)
    else:
        raise TypeError(f"expected an image, a path or a list of them, got {type(images).__name__}")
    if not items:
        raise ValueError("the list of images is empty")
    return items


def open_image(item: OneImage) -> Image.Image:
    """A path, PIL image, (H, W, 3) array or (3, H, W) tensor -> RGB image, upright, transparency over white.

    Arrays and tensors are uint8, or floating in 0..1.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no image, or pixels of a wrong shape or range.
        TypeError: anything else.
    """
    if isinstance(item, str | Path):
        return _read(Path(item), lambda path: decode.to_rgb(decode.open_file(path)))
    if isinstance(item, Image.Image):
        try:
            return decode.to_rgb(decode.own_image(item))
        except decode.BadInput as error:
            raise ValueError(f"{getattr(item, 'filename', '') or repr(item)} is no readable image: {error.reason}") from error
    if not is_array(item):
        raise TypeError(f"expected an image or a path, got {type(item).__name__}")
    array = decode.channels_last(item)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"pixels have shape {array.shape}: expected (H, W, 3) in arrays, (3, H, W) in tensors")
    if (pixels := decode.as_bytes(array)) is None:
        raise ValueError(
            f"pixels are {array.dtype} in {array.min():.3g}..{array.max():.3g}: expected uint8, or floats in 0..1 (not normalised)"
        )
    return Image.fromarray(pixels, "RGB")


def open_those(paths: Mapping[str, str | Path | None]) -> tuple[dict[str, Image.Image], list[str]]:
    """By their ids the pictures that have a path and can be read, and what is wrong with the others that have one."""
    found, wrong = {}, []
    for id, path in paths.items():
        try:
            if path is not None:
                found[id] = open_image(path)
        except (OSError, ValueError) as error:
            wrong.append(str(error))
    return found, wrong


def _read(path: Path, how: Callable[[Path], T]) -> T:
    """Read a file by a function of :mod:`unifashion_pl.data.decode`; errors as in :func:`open_image`."""
    if not path.exists() or path.is_dir():
        raise FileNotFoundError(f"image {str(path)!r} not found" + (" (it is a folder)" if path.is_dir() else ""))
    try:
        return how(path)
    except decode.BadInput as error:
        raise ValueError(f"{str(path)!r} is no readable image: {error.reason}") from error


class UnreadableImages(ValueError):
    """More pictures than are allowed cannot be read.

    Attributes:
        bad: position -> what is wrong.
    """

    def __init__(self, bad: dict[int, str], of: int, max_bad: int) -> None:
        self.bad = bad
        super().__init__(
            f"{len(bad):,} of {of:,} images cannot be used, allowed are {max_bad}: {shortened(bad.values(), NAMED)}. "
            f"Mend them, or leave them out: max_bad={len(bad)}, on the command line --max-bad {len(bad)}"
        )


def unreadable(images: Sequence[OneImage], max_bad: int = 0, *, headers: bool = False) -> dict[int, str]:
    """Read all pictures once, in threads, and find those that cannot be used: position -> what is wrong, with the file's name.

    Args:
        headers: look at headers of files alone (:func:`unifashion_pl.data.decode.look`); else pictures are decoded.

    Raises:
        UnreadableImages: more than ``max_bad``; the message names them.
    """

    def fault(image: OneImage) -> str | None:
        try:
            _read(image, decode.look) if headers and isinstance(image, Path) else open_image(image)
        except (ValueError, OSError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        faults = pool.map(fault, images)
        few = len(images) < 256
        bad = {}
        for number, found in enumerate(tqdm(faults, total=len(images), desc="reading", unit="image", disable=few, leave=False)):
            if found is not None:
                bad[number] = found if isinstance(images[number], str | Path) else f"image {number}: {found}"
    if len(bad) > max_bad:
        raise UnreadableImages(bad, len(images), max_bad)
    return bad


def left_out(bad: dict[int, str]) -> str:
    """A sentence about pictures that were left out."""
    return f"{len(bad):,} images are left out: {shortened(bad.values(), NAMED)}"


def save_picture(pictures: Sequence[Image.Image], place: str | Path, columns: int | None = None) -> Path:
    """Write pictures of one size as one, in rows of ``columns``; None = all side by side.

    Raises:
        ValueError: the ending says no kind of picture.
        WriteError: it cannot be written.
    """
    from diffusers.utils.pil_utils import make_image_grid

    path = Path(place)
    if (kind := Image.registered_extensions().get(path.suffix.lower())) is None:
        raise ValueError(f"{path}: the ending says no kind of picture; use .png or .jpg")
    across = columns or len(pictures)
    with replacing(path) as file:
        make_image_grid(list(pictures), -(-len(pictures) // across), across).save(file, kind)
    return path
