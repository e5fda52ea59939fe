"""Errors about the inputs of try-on and design: what was found, what was expected, how to mend it, and a picture that shows it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unifashion_pl.files import replacing

TINT = (230, 30, 60)
LINE = (20, 220, 60)


class InputError(ValueError):
    """An input of try-on or design that cannot be meant as it is.

    Attributes:
        subject: which input, e.g. ``mask``.
        found, expected, cure: the three parts of the message.
        picture: what shows the problem, or None.
        path: where the picture was saved, or None.
        file: that the input was read from, or None.
    """

    def __init__(self, subject: str, found: str, expected: str, cure: str, picture: Image.Image | None = None) -> None:
        self.subject, self.found, self.expected, self.cure, self.picture = subject, found, expected, cure, picture
        self.path: Path | None = None
        self.file: Path | None = None
        super().__init__(found)

    def __str__(self) -> str:
        shown = f" Picture: {self.path}" if self.path else ""
        shown += f" File: {self.file}" if self.file else ""
        return f"{self.subject} {self.found}. Expected: {self.expected}. {self.cure}{'' if self.cure.endswith('?') else '.'}{shown}"

    def save(self, folder: Path) -> None:
        """Save the picture under a name that depends on its content, so that repeated errors do not pile up files."""
        if self.picture is None:
            return
        name = f"{self.subject.replace(' ', '-')}-{hashlib.sha256(self.picture.tobytes()).hexdigest()[:8]}.png"
        with replacing(folder / name) as file:
            self.picture.save(file, "PNG")
        self.path = folder / name


def stretched(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask (h, w) in another size, given as Pillow gives it: (w, h)."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def overlay(person: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """The person with a mask (h, w) tinted red; the mask is stretched over it, whatever its size."""
    picture = person.convert("RGB")
    tinted = Image.blend(picture, Image.new("RGB", picture.size, TINT), 0.55)
    return Image.composite(tinted, picture, Image.fromarray(stretched(mask, picture.size)))


def side_by_side(*pictures: Image.Image) -> Image.Image:
    """Pictures in one row, as high as the first."""
    height = pictures[0].height
    fitted = [p.convert("RGB").resize((max(1, round(p.width * height / p.height)), height)) for p in pictures]
    return Image.fromarray(np.hstack([np.asarray(picture) for picture in fitted]))


def percent(share: float | np.floating[Any]) -> str:
    """``0.834`` as ``83 %``; small shares with a decimal."""
    value = 100 * float(share)
    return f"{value:.1f} %" if 0 < value < 9.95 else f"{value:.0f} %"
