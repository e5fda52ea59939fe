"""What recipes over image files share: reading inputs, passing bytes through, naming what is broken."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from unifashion_pl.data.decode import BadInput, Decoded, decode_picture, mention, read_bytes, stored, to_rgb
from unifashion_pl.data.plan import BadSample, Input, Item, Made, compact_json


def encoder_versions() -> dict[str, str]:
    """Libraries whose version may change encoded pixels."""
    return {"pillow": PIL.__version__}


def pixel_hash(image: Image.Image | NDArray[np.uint8]) -> str:
    """Hash of the size and RGB values of an image, or of RGB pixels (h, w, 3)."""
    rgb = np.asarray(to_rgb(image)) if isinstance(image, Image.Image) else image
    hashed = hashlib.sha256(f"{rgb.shape[1]}x{rgb.shape[0]}".encode())
    hashed.update(np.ascontiguousarray(rgb).data.cast("B"))
    return hashed.hexdigest()[:32]


@dataclass(frozen=True)
class Picture:
    """An image file as a shard stores it: field name with extension, bytes, and what was decoded of it."""

    field: str
    data: bytes
    decoded: Decoded

    @property
    def image(self) -> Image.Image:
        """Upright."""
        return self.decoded.image

    @property
    def turned(self) -> bool:
        """As in :class:`~unifashion_pl.data.decode.Decoded`."""
        return self.decoded.turned

    @property
    def flaw(self) -> str:
        """As in :class:`~unifashion_pl.data.decode.Decoded`."""
        return self.decoded.flaw

    @property
    def source(self) -> dict[str, Any]:
        """Size and hash of the bytes, for the sample's ``meta.json``."""
        return {"bytes": len(self.data), "sha256": hashlib.sha256(self.data).hexdigest()}


def read_input(needed: Input) -> Picture:
    """Read and fully decode an input.

    Raises:
        BadSample: unusable, with its id, role and reason.
    """
    try:
        raw = read_bytes(needed.path)
        kind, data, decoded = stored(raw, decode_picture(raw))
    except BadInput as error:
        raise BadSample(needed.id, needed.role, error.reason) from error
    return Picture(f"{needed.role}.{kind}", data, decoded)


class FileRecipe:
    """Base of recipes whose images are files: subclasses say which inputs an item has and what its ``meta.json`` holds.

    Attributes:
        fallible: whether a sample can fail although its images are good, so that a check has to make it.
    """

    fallible: ClassVar[bool] = False

    def inputs(self, item: Item) -> list[Input]:
        """Image files of one item."""
        raise NotImplementedError

    def meta(self, item: Item) -> dict[str, Any]:
        """``meta.json`` of one item, without ``source``."""
        raise NotImplementedError

    def extra(self, item: Item, pictures: dict[str, Picture]) -> dict[str, bytes]:
        """Further fields, e.g. made from the pictures."""
        return {}

    def quick(self) -> FileRecipe:
        """The recipe without steps that take long and cannot fail, for checking."""
        return self

    def make(self, items: Sequence[Item]) -> Iterator[tuple[Item, Made | BadSample]]:
        """One result per item, in order."""
        for item in items:
            try:
                yield item, self._sample(item)
            except BadSample as error:
                yield item, error

    def _sample(self, item: Item) -> Made:
        needed = self.inputs(item)
        pictures = {n.role: read_input(n) for n in needed}
        for one in needed:
            mention(pictures[one.role].flaw, str(one.path), pictures[one.role].data)
        meta = {**self.meta(item), "source": {n.role: pictures[n.role].source for n in needed}}
        try:
            extra = self.extra(item, pictures)
        except (ValueError, LookupError, TypeError, ArithmeticError, OSError) as error:  # what nobody foresaw
            raise BadSample(needed[0].id, "sample", f"cannot be made: {type(error).__name__} {error}") from error
        fields = {p.field: p.data for p in pictures.values()} | extra
        hashed = pixel_hash(pictures["image"].decoded.rgb()) if set(pictures) == {"image"} else None
        return Made({**fields, "meta.json": compact_json(meta)}, needed[0].id, hashed)


class ImageSpec(NamedTuple):
    """An image file with what is said of it: ``meta.json`` without ``source``, and the path below the recipe's folder."""

    meta: dict[str, Any]
    path: str


@dataclass
class ImageRecipe(FileRecipe):
    """:class:`ImageSpec` -> ``image`` and ``meta.json``."""

    folder: Path

    def inputs(self, item: Item) -> list[Input]:
        return [Input(self.meta(item)["id"], "image", self.folder / item.spec.path)]

    def meta(self, item: Item) -> dict[str, Any]:
        return dict(item.spec.meta)
