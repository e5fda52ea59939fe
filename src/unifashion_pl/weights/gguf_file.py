"""GGUF files, as llama.cpp has them: metadata and tensors, read with every size compared with the file's before anything is allocated.

The package ``gguf`` computes the numbers of quantised blocks. Its own reader trusts the sizes that a file claims, and takes seconds for a
vocabulary; here a header is read once, from left to right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unifashion_pl.names import unknown
from unifashion_pl.reading import FormatError, check_regular

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SUFFIX = ".gguf"
#: Number of a type of values -> its ``struct`` format.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
TEXT, ARRAY = 8, 9
#: Longest name, longest other text, most dimensions of a tensor: beyond them a file is no model's.
LONGEST_NAME, LONGEST_TEXT, MOST_DIMENSIONS = 512, 1 << 24, 4


@dataclass(frozen=True)
class Place:
    """Where a tensor lies.

    Attributes:
        shape: as torch has it, the slowest dimension first.
        kind: of its numbers, e.g. ``Q4_1``.
        start, size: in bytes.
    """

    shape: tuple[int, ...]
    kind: str
    start: int
    size: int


@dataclass(frozen=True)
class GGUF:
    """An opened file.

    Attributes:
        values: the metadata by key.
        places: where the tensors lie, by name.
    """

    path: Path
    values: dict[str, Any]
    places: dict[str, Place]


class GGUFTensors(Mapping[str, Tensor]):
    """The tensors of a file as float32, each computed when it is asked for."""

    def __init__(self, file: GGUF) -> None:
        self.file = file
        self._bytes = np.memmap(file.path, np.uint8, "r")

    def __getitem__(self, name: str) -> Tensor:
        from gguf import GGMLQuantizationType, dequantize

        place = self.file.places[name]
        data = np.asarray(self._bytes[place.start : place.start + place.size])
        if place.kind in ("F32", "F16"):
            numbers = data.view(np.float32 if place.kind == "F32" else np.float16).astype(np.float32)
        else:
            rows = data.reshape(prod(place.shape[:-1]), -1)
            numbers = dequantize(rows, GGMLQuantizationType[place.kind]).astype(np.float32, copy=False)
        return torch.from_numpy(np.array(numbers.reshape(place.shape)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.file.places)

    def __len__(self) -> int:
        return len(self.file.places)


def read_gguf(path: str | Path) -> GGUF:
    """Metadata and places of the tensors; no number is read.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the package ``gguf`` is absent.
        FormatError: another format or version, cut off, damaged, or sizes that cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file at {path}")
    check_regular(path)
    sizes = _block_sizes()
    with open(path, "rb") as file:
        reader = _Reader(path, np.memmap(file, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8))
        try:
            return _read(reader, sizes)
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise reader.fault(str(error)) from error


def _block_sizes() -> dict[int, tuple[str, int, int]]:
    """Number of a type of tensors -> its name, numbers of a block, bytes of a block; those alone whose numbers can be computed."""
    try:
        from gguf import GGML_QUANT_SIZES
        from gguf.quants import _type_traits
    except ImportError as error:
        raise ImportError("GGUF files need the package gguf: pip install 'unifashion-pl[gguf]', or pip install gguf") from error
    known = {kind: sizes for kind, sizes in GGML_QUANT_SIZES.items() if kind in _type_traits or kind.name in ("F32", "F16")}
    return {int(kind): (kind.name, numbers, size) for kind, (numbers, size) in known.items()}


class _Reader:
    """A place in a file's bytes that moves on."""

    def __init__(self, path: Path, data: Any) -> None:
        self.path, self.data, self.place = path, data, 0

    def fault(self, why: str) -> FormatError:
        return FormatError(
            f"{self.path} ({len(self.data):,} bytes) is no GGUF file, or a damaged or cut one: {why} (byte {self.place:,})"
        )

    def bytes(self, count: int, most: int | None = None) -> bytes:
        if count > len(self.data) - self.place or (most is not None and count > most):
            raise self.fault(f"it claims {count:,} more bytes than can be")
        found = self.data[self.place : self.place + count].tobytes()
        self.place += count
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.bytes(struct.calcsize(form)))[0]

    def count(self, least: int) -> int:
        """A number of things that take at least so many bytes each."""
        found: int = self.number("<Q")
        if found * least > len(self.data) - self.place:
            raise self.fault(f"it claims {found:,} entries, for which it is too short")
        return found

    def text(self, most: int) -> str:
        return self.bytes(self.number("<Q"), most).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == TEXT:
            return self.text(LONGEST_TEXT)
        if kind != ARRAY:
            raise self.fault(f"values of a type {kind}, which the format does not have")
        inner: int = self.number("<I")
        if inner in SCALARS:
            size = struct.calcsize(SCALARS[inner])
            count = self.count(size)
            return np.frombuffer(self.bytes(count * size), SCALARS[inner]).tolist()
        if inner != TEXT:
            raise self.fault(f"a list of values of type {inner}")
        return [self.text(LONGEST_TEXT) for _ in range(self.count(8))]


def _read(reader: _Reader, sizes: Mapping[int, tuple[str, int, int]]) -> GGUF:
    if reader.bytes(min(4, len(reader.data))) != MAGIC:
        raise reader.fault("it does not begin with GGUF")
    version = reader.number("<I")
    if version not in VERSIONS:
        raise reader.fault(f"version {version}, expected one of {', '.join(map(str, VERSIONS))}")
    tensors, entries = reader.count(24), reader.count(13)
    values: dict[str, Any] = {}
    for _ in range(entries):
        name = reader.text(LONGEST_NAME)
        if name in values:
            raise reader.fault(f"{name} stands in it twice")
        values[name] = reader.value(reader.number("<I"))
    found = [_tensor(reader, sizes) for _ in range(tensors)]
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise reader.fault(f"general.alignment is {alignment!r}")
    base = -(-reader.place // alignment) * alignment
    places: dict[str, Place] = {}
    for name, shape, kind, start, size in found:
        if name in places:
            raise reader.fault(f"the tensor {name} stands in it twice")
        if base + start + size > len(reader.data):
            raise reader.fault(f"the tensor {name} lies behind its end: half downloaded?")
        places[name] = Place(shape, kind, base + start, size)
    return GGUF(reader.path, values, places)


def _tensor(reader: _Reader, sizes: Mapping[int, tuple[str, int, int]]) -> tuple[str, tuple[int, ...], str, int, int]:
    name, dimensions = reader.text(LONGEST_NAME), reader.number("<I")
    if not 0 < dimensions <= MOST_DIMENSIONS:
        raise reader.fault(f"the tensor {name} has {dimensions} dimensions")
    shape = tuple(reader.number("<Q") for _ in range(dimensions))[::-1]
    number, start = reader.number("<I"), reader.number("<Q")
    if number not in sizes:
        raise reader.fault(unknown("type of numbers", str(number), [kind for kind, *_ in sizes.values()]) + f", in {name}")
    kind, block, size = sizes[number]
    if min(shape) < 1 or shape[-1] % block:
        raise reader.fault(
            f"the tensor {name} has the shape {shape}, which {kind} cannot have: its blocks have {block} numbers"
        )
    return name, shape, kind, start, prod(shape) // block * size
