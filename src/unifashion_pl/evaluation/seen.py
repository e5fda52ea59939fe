"""What the vision tower makes of the images of an evaluation: each passes it once, whatever is asked of it.

Letters: B batch, S image side, P image tokens, W their width.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Hashable, Sequence
from math import prod
from typing import IO, Any

import torch
from torch import Tensor

from unifashion_pl.interface import FashionModel
from unifashion_pl.provenance import tensor_bytes

GREY = 128
#: Bytes of features that are kept in memory, and further ones in a temporary file (of the folder that TMPDIR names).
MEMORY, FILE = 2**30, 16 * 2**30


class Seen:
    """Outputs of the vision tower by the names of images, so that all that measure share them.

    Those of a batch are held until the next one (:meth:`turn`), those that will be asked for again as long as there is room: first in
    memory, then in a temporary file. What finds no room passes the tower again. The references of Fashion-IQ's validation are some
    4,000 images, in bf16 2.9 GB at the paper's size (257 × 1408).

    Args:
        memory, file: the room in bytes.
    """

    def __init__(self, memory: int = MEMORY, file: int = FILE) -> None:
        self._now: dict[Hashable, Tensor] = {}
        self._kept = _Kept(memory, file)
        self._grey: Tensor | None = None

    def turn(self) -> None:
        """Forget what was of the last batch alone."""
        self._now = {}

    def features(
        self,
        model: FashionModel,
        images: Tensor,
        names: Sequence[Hashable],
        again: Sequence[bool] | bool = False,
        *,
        sure: bool = True,
    ) -> Tensor:
        """Outputs of the tower (B, P, W), before ``ln_vision``, on the model's device.

        Args:
            images: (B, 3, S, S) uint8, or outputs that were made before, which come back as they are.
            names: of the images; equal names are one image.
            again: which of them later batches will ask for.
            sure: that they will; what is only guessed takes memory, but no file.
        """
        if images.ndim == 3:
            return images
        again = [again] * len(names) if isinstance(again, bool) else again
        first = {name: row for row, name in reversed([*enumerate(names)])}
        new = sorted(row for name, row in first.items() if name not in self._now and name not in self._kept)
        if new:
            chosen = images if len(new) == len(images) else images[new]
            made = dict(zip([names[row] for row in new], model.backbone.vision(chosen.to(model.device))))
            self._now |= made
            self._kept.add({name: made[name] for name in made if again[first[name]]}, sure)
        found = {name: self._now[name] for name in first if name in self._now}
        found |= self._kept.get([name for name in first if name not in found], model.device)
        self._now |= found
        return torch.stack([found[name] for name in names])

    def grey(self, model: FashionModel) -> Tensor:
        """The outputs for a uniform grey picture, (1, P, W)."""
        if self._grey is None:
            side = model.backbone.vision.image_size
            picture = torch.full((1, 3, side, side), GREY, dtype=torch.uint8, device=model.device)
            self._grey = model.backbone.vision(picture)
        return self._grey


def distinct(images: Tensor) -> list[int]:
    """For each of some images (B, …) the first row that has the same bytes.

    >>> distinct(torch.tensor([[1, 2], [3, 4], [1, 2]]))
    [0, 1, 0]
    """
    first: dict[bytes, int] = {}
    return [first.setdefault(bytes(tensor_bytes(image)), row) for row, image in enumerate(images)]


class _Kept:
    """Tensors by name, in memory while there is room, then in a file that has no name and goes with the process."""

    def __init__(self, memory: int, file: int) -> None:
        self.memory, self.room = memory, file
        self._here: dict[Hashable, Tensor] = {}
        self._there: dict[Hashable, tuple[int, tuple[int, ...], torch.dtype]] = {}
        self._file: IO[bytes] | None = None
        self._end = 0

    def __contains__(self, name: object) -> bool:
        return name in self._here or name in self._there

    def add(self, tensors: dict[Hashable, Tensor], sure: bool) -> None:
        """Keep them, those that there is room for; in the file only what will surely be asked for."""
        for name, tensor in tensors.items():
            tensor, size = tensor.cpu(), tensor.numel() * tensor.element_size()
            if size <= self.memory:
                self.memory -= size
                self._here[name] = tensor.clone()  # of its own, not a row that holds a whole batch
            elif sure and size <= self.room:
                self._write(name, tensor, size)

    def _write(self, name: Hashable, tensor: Tensor, size: int) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
            self._file.seek(self._end)
            self._file.write(tensor_bytes(tensor))
            self._file.flush()
        except OSError as error:
            self.room = 0
            warnings.warn(
                f"{tempfile.gettempdir()}: {error}, so vision features find no room there: some images pass the vision tower again. "
                "TMPDIR names another folder",
                stacklevel=2,
            )
            return
        self._there[name] = (self._end, tuple(tensor.shape), tensor.dtype)
        self._end, self.room = self._end + size, self.room - size

    def get(self, names: Sequence[Hashable], device: torch.device) -> dict[Hashable, Tensor]:
        """Those of some names."""
        return {name: (self._here[name] if name in self._here else self._read(name)).to(device) for name in names}

    def _read(self, name: Hashable) -> Tensor:
        assert self._file is not None
        start, shape, dtype = self._there[name]
        self._file.seek(start)
        content: Any = bytearray(prod(shape) * dtype.itemsize)
        self._file.readinto(content)  # type: ignore[attr-defined]
        return torch.frombuffer(content, dtype=dtype).view(shape)
