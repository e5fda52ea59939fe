"""Pictures as users have them: paths, PIL images, arrays, tensors -> PIL images in their own mode, upright."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unifashion_pl.data.decode import BadInput, open_image, own_image, read_bytes
from unifashion_pl.data.problems import InputError

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
            return open_image(read_bytes(path), str(path))
        except BadInput as error:
            raise InputError(subject, f"{path}: {error.reason}", "a picture", "Save or download it again") from error
    if isinstance(value, Image.Image):
        try:
            return own_image(value)
        except BadInput as error:
            raise InputError(
                subject, f"is no readable picture: {error.reason}", "a picture", "Open or download it again"
            ) from error
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
        value = np.moveaxis(value, 0, -1) if value.ndim == 3 else value
    return Image.fromarray(_bytes(subject, value))


def _bytes(subject: str, array: NDArray[Any]) -> NDArray[np.uint8]:
    if not isinstance(array, np.ndarray):
        raise InputError(
            subject, f"is of type {type(array).__name__}", "a path, a picture, an array or a tensor", "Pass one of these"
        )
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        expected = "(H, W), (H, W, 3) in arrays, (1, H, W), (3, H, W) in tensors"
        raise InputError(subject, f"has the shape {array.shape}", expected, "Mend its axes")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if np.issubdtype(array.dtype, np.floating) and array.min(initial=0) >= 0 and array.max(initial=0) <= 1:
        return np.rint(array * 255).astype(np.uint8)
    raise InputError(
        subject,
        f"is {array.dtype} in {array.min():.3g}…{array.max():.3g}",
        "uint8, bool, or floats in 0…1 (not normalised)",
        "Convert it",
    )
