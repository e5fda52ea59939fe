"""Pictures as users have them: paths, PIL images, arrays, tensors -> PIL images in their own mode, upright."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unifashion_pl.data.decode import BadInput, as_bytes, channels_last, open_file, own_image
from unifashion_pl.person.problems import InputError

ImageLike = str | Path | Image.Image | Tensor | NDArray[Any]


def read_picture(subject: str, value: ImageLike) -> Image.Image:
    """A picture in its own mode, upright. Arrays are (H, W) or (H, W, 3), tensors (1, H, W) or (3, H, W); uint8, bool or 0…1.

    Raises:
        InputError: no image, or an array of another form.
    """
    if isinstance(value, str | Path):
        path = Path(value)
        if not path.exists() or path.is_dir():
            raise FileNotFoundError(f"{subject}: no file {path}")
        try:
            return open_file(path)
        except BadInput as error:
            raise InputError(subject, f"{path}: {error.reason}", "a picture", "Save or download it again") from error
    if isinstance(value, Image.Image):
        try:
            return own_image(value)
        except BadInput as error:
            raise InputError(
                subject, f"is no readable picture: {error.reason}", "a picture", "Open or download it again"
            ) from error
    if not isinstance(value, np.ndarray | Tensor):
        raise InputError(
            subject, f"is of type {type(value).__name__}", "a path, a picture, an array or a tensor", "Pass one of these"
        )
    array = channels_last(value)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        expected = "(H, W), (H, W, 3) in arrays, (1, H, W), (3, H, W) in tensors"
        raise InputError(subject, f"has the shape {array.shape}", expected, "Mend its axes")
    if (pixels := as_bytes(array)) is None:
        found = f"is {array.dtype} in {array.min():.3g}…{array.max():.3g}"
        raise InputError(subject, found, "uint8, bool, or floats in 0…1 (not normalised)", "Convert it")
    return Image.fromarray(pixels)
