"""Fabric patterns as functions of garment coordinates, anti-aliased by a soft threshold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifashion_pl.wardrobe.products import COLOURS, Product

Array = NDArray[np.floating[Any]]

# 5 × 3 bitmaps: no font file is needed to print a word on a chest.
GLYPHS = {
    "A": "010101111101101",
    "E": "111100110100111",
    "M": "101111111101101",
    "O": "111101101101111",
    "N": "111101101101101",
    "U": "101101101101111",
    "I": "111010010010111",
    "L": "100100100100111",
}
WORDS = ("NEO", "LUNA", "MOON", "ALMA", "UNI", "LEO")


def over(base: Array, colour: Array | tuple[int, int, int], cover: Array) -> Array:
    """A colour, or a picture, laid over a picture (H, W, 3) where ``cover`` (H, W) is above 0."""
    alpha = cover[..., None]
    return base * (1 - alpha) + np.asarray(colour, np.float32) * alpha


def _soft(distance: Array, width: float) -> Array:
    """1 inside (distance < 0), 0 outside, a ramp of ``width`` garment units between."""
    return np.clip(0.5 - distance / max(width, 1e-6), 0, 1).astype(np.float32)


def _bands(t: Array, period: float, share: float, width: float) -> Array:
    """Stripes across ``t``: a band of ``share`` of every period."""
    u = np.mod(t, period) - period / 2
    return _soft(np.abs(u) - period * share / 2, width)


def _cells(x: Array, y: Array, step: float) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.int64]]:
    """Offsets from the nearest point of a hexagonal grid and that point's indices."""
    row = np.rint(y / (step * 0.866)).astype(np.int64)
    shift = (row % 2) * 0.5 * step
    column = np.rint((x - shift) / step).astype(np.int64)
    return (x - shift - column * step).astype(np.float32), (y - row * step * 0.866).astype(np.float32), column, row


def _word(x: Array, y: Array, word: str, width: float) -> Array:
    """Block letters across the chest, centred at (0, 0.33)."""
    pixel = 0.34 / (4 * len(word) - 1)
    u, v = x + 0.17, y - 0.33 + 2.5 * pixel
    column, row = np.floor(u / pixel).astype(np.int64), np.floor(v / pixel).astype(np.int64)
    letter, inside = np.floor_divide(column, 4), np.mod(column, 4)
    table = np.zeros((len(word), 5, 4), np.float32)
    for i, glyph in enumerate(word):
        table[i, :, :3] = np.array([int(c) for c in GLYPHS[glyph]], np.float32).reshape(5, 3)
    valid = (letter >= 0) & (letter < len(word)) & (row >= 0) & (row < 5)
    return np.where(valid, table[np.clip(letter, 0, len(word) - 1), np.clip(row, 0, 4), inside], 0).astype(np.float32)


def texture(product: Product, x: Array, y: Array, fabric: random.Random, blur_units: float) -> Array:
    """Colours of the fabric.

    Args:
        x, y: garment coordinates (H, W).
        fabric: where the pattern lies on the garment and which word is printed.
        blur_units: width of a pixel in garment units, for anti-aliasing.

    Returns:
        (H, W, 3) float32 in 0..255, before light.
    """
    base, second = (np.array(COLOURS[c], np.float32) for c in (product.colour, product.second or product.colour))
    if product.colour == "black":
        base = base + 10
    px, py = fabric.uniform(0, 1), fabric.uniform(0, 1)
    width = 1.6 * blur_units
    cover = hearts = np.zeros_like(x)
    if product.pattern == "striped":
        cover = _bands(y + px, 0.14, 0.42, width)
    elif product.pattern == "pinstriped":
        cover = _bands(x + px, 0.12, 0.36, width)
    elif product.pattern == "checked":
        cover = 0.5 * (_bands(x + px, 0.20, 0.5, width) + _bands(y + py, 0.20, 0.5, width))
    elif product.pattern == "dotted":
        dx, dy, _, _ = _cells(x + px, y + py, 0.135)
        cover = _soft(np.hypot(dx, dy) - 0.034, width)
    elif product.pattern == "lettered":
        cover = _word(x, y, fabric.choice(WORDS), width)
    elif product.pattern == "floral":
        dx, dy, column, row = _cells(x + px, y + py, 0.17)
        angle, radius = np.arctan2(dy, dx) + (column * 1.7 + row * 2.9), np.hypot(dx, dy)
        cover = _soft(radius - 0.058 * (0.72 + 0.28 * np.cos(5 * angle)), width)
        hearts = _soft(radius - 0.016, width)
    centre = (250, 226, 120) if product.second not in ("yellow", "white") else (180, 90, 40)
    return over(over(base, second, cover), centre, hearts).astype(np.float32)
