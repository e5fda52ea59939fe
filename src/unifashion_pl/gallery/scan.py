"""The search itself: int8 codes of all images are read once, the best are ranked by exact numbers. Letters: M images, Q tokens, E width.

Products of int8 are numkong's; without it, torch's or numpy's fp32 products of the codes give the same numbers, more slowly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifashion_pl.gallery.rows import Live
from unifashion_pl.gallery.segments import Array, Coded, Floats, Segment, TokenSet

try:
    import numkong
except ImportError:  # a system for which it has no wheel
    numkong = None  # type: ignore[assignment]

Positions = NDArray[np.int64]
NONE: Positions = np.empty(0, np.int64)
#: Tokens that are read at once: their products with 32 queries stay in a core's cache.
TOKENS = 1 << 12
#: Bytes of exact numbers that are held at once.
HELD = 1 << 27


def approximate(vectors: Floats, held: Coded) -> Floats:
    """(m, E) against (M, Q, E) codes -> (m, M): the largest product over each image's tokens, as near as int8 is."""
    M, Q, E = held.codes.shape
    out = np.empty((len(vectors), M), np.float32)
    scale = np.maximum(np.abs(vectors).max(1) / 127, np.float32(1e-30)).astype(np.float32)
    asked = np.rint(vectors / scale[:, None]).astype(np.int8)
    product = _product_with(asked)
    height = max(1, (TOKENS if len(vectors) > 1 else 8 * TOKENS) // Q)
    for start in range(0, M, height):
        rows = slice(start, min(start + height, M))
        codes = held.codes[rows]
        dots = product(codes.reshape(-1, E)).reshape(len(codes), Q, -1)
        scores = np.multiply(dots, held.scales[rows][..., None], dtype=np.float32, casting="unsafe")
        if len(vectors) == 1:  # turned round, numpy compares whole rows
            out[0, rows] = np.ascontiguousarray(scores[..., 0].T).max(0)
        else:
            out[:, rows] = _largest_token(scores).T
    return out * scale[:, None]


def _product_with(asked: NDArray[np.int8]) -> Any:
    """int8 (n, E) -> its products (n, m) with the queries' codes, whole numbers."""
    if numkong is None:
        turned = np.ascontiguousarray(asked.T.astype(np.float32))  # sums of int8 products below 2^24 are exact in fp32
        return lambda codes: codes.astype(np.float32) @ turned
    packed = numkong.dots_pack(asked)
    return lambda codes: np.asarray(numkong.dots_packed(codes, packed))


def _largest_token(scores: Floats) -> Floats:
    """(n, Q, m) -> (n, m), the maximum over Q, by halves, which is twice as fast as `max(1)`; ``scores`` are written over."""
    left = scores.shape[1]
    while left > 1:
        half = (left + 1) // 2
        np.maximum(scores[:, : left - half], scores[:, half:left], out=scores[:, : left - half])
        left = half
    return scores[:, 0]


def exact(vectors: Floats, tokens: Array, scales: Floats | None = None) -> tuple[Floats, NDArray[np.int64]]:
    """(m, E) against (n, Q, E) -> the largest products (m, n) and the tokens (m, n) that they are of.

    Args:
        tokens: numbers of any type, or codes whose ``scales`` (n, Q) are multiplied into the products.

    Sums are taken in fp64 and rounded to fp32, so that equal images have equal scores wherever they lie.
    """
    n, Q, E = tokens.shape
    with np.errstate(over="ignore", invalid="ignore"):
        sums = vectors.astype(np.float64) @ tokens.reshape(-1, E).astype(np.float64).T
        if scales is not None:
            sums *= scales.reshape(-1)
        dots: Floats = sums.astype(np.float32).reshape(-1, n, Q)
    token = dots.argmax(2)
    return np.take_along_axis(dots, token[..., None], 2)[..., 0], token


@dataclass(frozen=True)
class Corpus:
    """All vectors of a gallery, by segments, and the rows that are alive.

    Positions count the live rows from 0, in the order in which they came.
    """

    segments: Mapping[int, Segment]
    live: Live

    @property
    def has_coarse(self) -> bool:
        """Whether some images are chosen by coarse tokens."""
        return any(one.coarse is not None for segment in self.segments.values() for one in segment.sets.values())

    def set_of(self, segment: Segment, name: str) -> TokenSet | None:
        """A segment's set; the target set where it equals the reference set is that one."""
        return segment.sets.get(name, segment.sets.get("reference") if name == "target" else None)

    def approximate(self, name: str, vectors: Floats, wide: bool = False) -> Floats:
        """(m, E) -> (m, M) of the live rows, by codes, or by coarse tokens where there are some and ``wide`` says so.

        IndexRows without a vector, as images without a caption, have 0.
        """
        out = np.zeros((len(vectors), len(self.live)), np.float32)
        for number, segment in self.segments.items():
            held = self.set_of(segment, name)
            if held is None or not len(held):
                continue
            positions, places = self._places(number, name)
            coarse = held.coarse if wide and held.coarse is not None else held.coded
            if len(places) < len(held) // 8:  # most of the file is gone, or never had a caption
                out[:, positions] = approximate(vectors, Coded(coarse.codes[places], coarse.scales[places]))
            else:
                found = approximate(vectors, coarse)
                in_order = len(places) == len(held) and bool((places[1:] > places[:-1]).all())
                if in_order and len(held) == out.shape[1]:
                    return found  # nothing was removed, and nothing need be moved
                if in_order and len(held) == positions[-1] + 1 - positions[0]:
                    out[:, positions[0] : positions[-1] + 1] = found
                else:
                    out[:, positions] = found[:, places]
        return out

    def _places(self, number: int, name: str) -> tuple[Positions, Positions]:
        """Positions of the live rows of a segment, and their rows in its set."""
        positions = self.live.of_segments.get(number, NONE)
        places = (self.live.captioned if name == "captions" else self.live.places)[positions]
        if name == "captions":
            positions, places = positions[places >= 0], places[places >= 0]
        return positions, places

    def exact(self, name: str, vectors: Floats, positions: Positions) -> tuple[Floats, NDArray[np.int64]]:
        """(m, E) -> scores and tokens (m, n) of some rows by exact numbers; 0 and -1 without a vector."""
        score = np.zeros((len(vectors), len(positions)), np.float32)
        token = np.full(score.shape, -1, np.int64)
        for where, held, rows in self._gathered(name, positions):
            codes = held.coded
            kept = (codes.codes[rows], codes.scales[rows]) if held.exact is None else (held.exact[rows], None)
            score[:, where], token[:, where] = exact(vectors, *kept)
        return score, token

    def floats(self, name: str, positions: Positions) -> Floats | None:
        """(n, Q, E) of rows that all have vectors; None before the first image."""
        out: Floats | None = None
        for where, held, rows in self._gathered(name, positions):
            if out is None:
                out = np.zeros((len(positions), *held.coded.codes.shape[1:]), np.float32)
            out[where] = held.floats(rows)
        return out

    def _gathered(self, name: str, positions: Positions) -> Any:
        """(indices into ``positions``, set, its rows) by segments and by what may be held at once."""
        segments = self.live.segments[positions]
        places = (self.live.captioned if name == "captions" else self.live.places)[positions]
        for number in np.unique(segments):
            held = self.set_of(self.segments[int(number)], name)
            if held is None:
                continue
            where = np.flatnonzero((segments == number) & (places >= 0))
            height = max(1, HELD // max(1, 8 * int(np.prod(held.coded.codes.shape[1:]))))
            for start in range(0, len(where), height):
                part = where[start : start + height]
                yield part, held, places[part]


def largest(scores: Floats, count: int, allowed: NDArray[np.bool_] | None = None) -> Positions:
    """Positions of the ``count`` largest scores (M,) and of all that equal the least of these; in no order.

    Nothing is sorted: one partition, then a comparison.
    """
    if allowed is not None:
        inside = np.flatnonzero(allowed)
        return inside[largest(scores[inside], count)]
    if len(scores) <= count:
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    return np.flatnonzero(scores >= least)


def order(scores: Sequence[float] | Floats, names: Sequence[str]) -> list[int]:
    """Indices from the best score on; equal scores in the order of names."""
    values = [float(score) for score in scores]
    return sorted(range(len(values)), key=lambda i: (-values[i], names[i]))


def as_array(tensor: Array | Any) -> Floats:
    """float32 numpy of an array or a torch tensor."""
    given = tensor.detach().cpu().float().numpy() if hasattr(tensor, "detach") else tensor
    return np.ascontiguousarray(given, np.float32)
