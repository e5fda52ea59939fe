"""Vectors of an index as files: written once, never changed, mapped into memory. Letters: M images, Q tokens of each, E width.

A set of vectors is kept as int8 codes with a scale a token, which a search reads through, and as exact numbers (fp32 or fp16) by which the
best are ranked; with int8 storage the codes are all there is. Files are safetensors, read here without torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifashion_pl import files
from unifashion_pl.arguments import ArgumentError
from unifashion_pl.reading import FormatError, digest

Floats = NDArray[np.float32]
Array = NDArray[Any]
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I8": np.dtype("i1")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
#: What exact numbers are kept as; int8 keeps none.
STORAGE: dict[str, np.dtype[Any] | None] = {"fp32": DTYPES["F32"], "fp16": DTYPES["F16"], "int8": None}
#: Sets of one vector an image: of captions, and of what the tower itself saw of images.
CAPTIONS, APPEARANCE = "captions", "appearance"
SINGLE = (CAPTIONS, APPEARANCE)
#: Images that are coded at once.
BLOCK = 4096
#: Bytes of a file up to which its digest is compared whenever it is opened; ``index check`` compares all.
SMALL = 64 << 20
MAX_HEADER = 1 << 20
#: The cure of damage.
AGAIN = "build the index again"


@dataclass(frozen=True)
class Coded:
    """int8 codes (M, Q, E) and the scale of each token (M, Q): a number is its code times the scale."""

    codes: NDArray[np.int8]
    scales: Floats

    def __len__(self) -> int:
        return len(self.codes)

    def floats(self, rows: Array | slice) -> Floats:
        """(n, Q, E) of some rows."""
        return self.codes[rows].astype(np.float32) * np.asarray(self.scales[rows])[..., None]


@dataclass(frozen=True)
class TokenSet:
    """One set of vectors: codes, exact numbers (None with int8 storage), and few coarse tokens that a search of very many reads first."""

    coded: Coded
    exact: Array | None = None
    coarse: Coded | None = None

    def __len__(self) -> int:
        return len(self.coded)

    def floats(self, rows: Array | slice) -> Floats:
        """(n, Q, E) of some rows, as exact as they are kept."""
        return self.coded.floats(rows) if self.exact is None else np.asarray(self.exact[rows], np.float32)

    def take(self, rows: Array) -> TokenSet:
        """Some rows, in memory."""

        def part(one: Coded | None) -> Coded | None:
            return None if one is None else Coded(np.asarray(one.codes[rows]), np.asarray(one.scales[rows]))

        coded = part(self.coded)
        assert coded is not None
        return TokenSet(coded, None if self.exact is None else np.asarray(self.exact[rows]), part(self.coarse))


@dataclass(frozen=True)
class Segment:
    """Rows that were added together.

    Attributes:
        sets: ``reference``, ``target`` (absent where it equals reference), ``appearance`` (Q = 1, if the model has one), and ``captions`` (Q = 1,
            of those images that have one).
        file: name of its file; "" while it is in memory alone.
    """

    sets: Mapping[str, TokenSet]
    file: str = ""

    @property
    def rows(self) -> int:
        """Images."""
        return max((len(one) for name, one in self.sets.items() if name != "captions"), default=0)


def coded(tokens: Floats) -> Coded:
    """(M, Q, E) as int8: each token by its largest number."""
    codes = np.empty(tokens.shape, np.int8)
    scales = np.empty(tokens.shape[:2], np.float32)
    for start in range(0, len(tokens), BLOCK):
        part = tokens[start : start + BLOCK]
        scale = np.maximum(np.abs(part).max(-1, initial=0) / 127, np.float32(1e-30))
        scales[start : start + BLOCK] = scale
        codes[start : start + BLOCK] = np.rint(part / scale[..., None])
    return Coded(codes, scales)


def segment_from(vectors: Mapping[str, Floats], storage: str, pool: int | None = None, coarse: int | None = None) -> Segment:
    """Vectors by the names of their sets, each (M, Q, E), as they are kept; a target set that equals the reference set takes no space.

    Args:
        storage: a name of :data:`STORAGE`.
        pool: tokens of each image that are kept, see :func:`pooled`; None = all.
        coarse: tokens of each image that a search reads first, see :func:`pooled`; None = it reads all.
    """
    given = {name: tokens for name, tokens in vectors.items() if len(tokens)}
    if {"reference", "target"} <= given.keys() and np.array_equal(given["reference"], given["target"]):
        del given["target"]
    sets, kept = {}, STORAGE[storage]
    for name, tokens in given.items():
        many = name not in SINGLE
        few = pooled(tokens, pool) if many and pool is not None else tokens
        first = coded(pooled(few, coarse)) if many and coarse is not None else None
        sets[name] = TokenSet(coded(few), None if kept is None else few.astype(kept), first)
    return Segment(sets)


def numbered(there: Sequence[bool] | Array) -> list[int]:
    """Rows of captions' vectors, which not all images have: 0, 1, 2, … of those that have one, -1 of the others.

    >>> numbered([True, False, True])
    [0, -1, 1]
    """
    rows: list[int] = np.where(there, np.cumsum(there) - 1, -1).tolist()
    return rows


def require_finite(vectors: Floats, ids: Sequence[str]) -> None:
    """Refuse vectors (M, …) that are NaN or infinite.

    Raises:
        ArgumentError: with the ids.
    """
    if (bad := ~np.isfinite(vectors).all(axis=tuple(range(1, vectors.ndim)))).any():
        names = ", ".join(ids[row] for row in np.flatnonzero(bad)[:5])
        raise ArgumentError(f"the vectors of {names} are NaN or infinite: look at the model's weights")


def pooled(tokens: Floats, number: int) -> Floats:
    """(M, Q, E) -> (M, ``number``, E) unit vectors: near tokens become their mean.

    Ward's hierarchical clustering of an image's tokens as ColPali's pooling does it, merging the two groups whose union costs least, all
    images of a block at once.
    """
    if number >= tokens.shape[1]:
        return tokens
    if number == 1:
        return _unit(tokens.mean(1, keepdims=True))
    return np.concatenate(
        [_merged(tokens[start : start + 512], number) for start in range(0, len(tokens), 512)] or [tokens[:, :number]]
    )


def _merged(tokens: Floats, number: int) -> Floats:
    M, Q, _ = tokens.shape
    means, sizes = tokens.copy(), np.ones((M, Q), np.float32)
    rows, far = np.arange(M), np.float32(np.inf)
    square = np.einsum("mqe,mqe->mq", means, means)
    distance = square[:, :, None] + square[:, None] - 2 * (means @ means.transpose(0, 2, 1))
    distance[:, np.arange(Q), np.arange(Q)] = far
    cost = distance / 2
    for _ in range(Q - number):
        one, two = np.divmod(cost.reshape(M, -1).argmin(1), Q)
        whole = sizes[rows, one] + sizes[rows, two]
        share = (sizes[rows, one] / whole)[:, None]
        means[rows, one] = share * means[rows, one] + (1 - share) * means[rows, two]
        sizes[rows, one], sizes[rows, two] = whole, 0
        beside = np.einsum("mqe,me->mq", means, means[rows, one])
        square[rows, one] = np.einsum("me,me->m", means[rows, one], means[rows, one])
        apart = square + square[rows, one][:, None] - 2 * beside
        new = apart * sizes * whole[:, None] / np.maximum(sizes + whole[:, None], 1)
        new[sizes == 0] = far
        new[rows, one] = far
        cost[rows, one, :], cost[rows, :, one] = new, new
        cost[rows, two, :], cost[rows, :, two] = far, far
    return _unit(means[sizes > 0].reshape(M, number, -1))


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12)))


def arrays_of(segment: Segment) -> dict[str, Array]:
    """The arrays of a segment by their names in its file."""
    out: dict[str, Array] = {}
    for name, one in segment.sets.items():
        out |= {f"{name}.codes": one.coded.codes, f"{name}.scales": one.coded.scales}
        if one.exact is not None:
            out[f"{name}.exact"] = one.exact
        if one.coarse is not None:
            out |= {f"{name}.coarse.codes": one.coarse.codes, f"{name}.coarse.scales": one.coarse.scales}
    return out


def segment_of(arrays: Mapping[str, Array], file: str = "") -> Segment:
    """The other way round; arrays that are missing are a ``KeyError``."""

    def coded_of(name: str) -> Coded:
        return Coded(arrays[f"{name}.codes"], arrays[f"{name}.scales"])

    sets = {}
    for name in dict.fromkeys(key.partition(".")[0] for key in arrays):
        coarse = coded_of(f"{name}.coarse") if f"{name}.coarse.codes" in arrays else None
        sets[name] = TokenSet(coded_of(name), arrays.get(f"{name}.exact"), coarse)
    return Segment(sets, file)


def write(folder: Path, segment: Segment) -> str:
    """Write a segment's file, whole and on the disk when this returns -> its name, which holds the digest of its content.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    arrays = dict(sorted(arrays_of(segment).items(), key=lambda item: (-item[1].itemsize, item[0])))  # aligned by their sizes
    header, at = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": NAMES[array.dtype], "shape": array.shape, "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text
    hasher = hashlib.sha256(start)
    for block in _blocks(arrays):
        hasher.update(block)
    name = f"vectors-{hasher.hexdigest()[:32]}.safetensors"
    with files.replacing(folder / name) as file:
        file.write(start)
        for block in _blocks(arrays):
            file.write(block)
    return name


def _blocks(arrays: Mapping[str, Array]) -> Iterator[memoryview]:
    for array in arrays.values():
        for start in range(0, len(array), BLOCK):
            if array.size:
                yield np.ascontiguousarray(array[start : start + BLOCK]).reshape(-1).view(np.uint8).data


def read(path: Path) -> Segment:
    """A segment's file, mapped into memory; small ones are compared with their digest.

    Raises:
        FileNotFoundError: it is not there.
        FormatError: damaged.
    """
    size = path.stat().st_size
    try:
        if size <= SMALL:
            check(path)
        whole = np.asarray(np.memmap(path, np.uint8, "r"))
        length = int.from_bytes(whole[:8].tobytes(), "little")
        if not 0 < length <= min(size - 8, MAX_HEADER):
            raise ValueError("no header")
        header = json.loads(whole[8 : 8 + length].tobytes())
        arrays = {name: _array(whole[8 + length :], entry) for name, entry in header.items()}
        return segment_of(arrays, path.name)
    except FileNotFoundError:
        raise
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise FormatError(f"{path} is damaged: it is no file of vectors ({error}); {AGAIN}") from error


def _array(data: Array, entry: Any) -> Array:
    dtype, shape, (start, stop) = DTYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"]), entry["data_offsets"]
    if min(shape, default=0) < 0 or not 0 <= start <= stop <= len(data) or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError("places of numbers that do not fit")
    return data[start:stop].view(dtype).reshape(shape)


def check(path: Path) -> None:
    """Compare a file with the digest in its name.

    Raises:
        FormatError: other bytes than were written.
    """
    if path.name != f"vectors-{digest(path)[:32]}.safetensors":
        raise FormatError(f"{path} is damaged: its vectors are not those that were written; {AGAIN}")
