"""In-shop photos of garments: their mask by flood fill from the border, and a line drawing of them, with numpy alone.

A stand-in for the masks and sketches that the datasets deliver or did not publish: good on quiet backdrops, and it says when not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from unifashion_pl.data.decode import to_rgb
from unifashion_pl.data.regions import Mask, border_of, flood, grow, shrink, without_small

Array = NDArray[np.floating[Any]]
#: Share of the picture below which published code takes a cloth mask for broken: 122,880 of 768 × 1024 pixels.
SMALLEST, LARGEST = 0.156, 0.85
#: How far a colour may be from the backdrop's, in Lab units.
TOLERANCES = (26.0, 18.0, 12.0, 8.0, 5.0)
#: Side to which photos are reduced before masks and lines are looked for: noise goes, and 768 × 1024 takes a tenth of the time.
WORKING = 384


def garment_mask(photo: Image.Image) -> Mask:
    """Where the garment is, (h, w) bool: what a flood fill from the border does not reach, without small islands and holes.

    A pixel is like the backdrop if its colour is near a smooth surface fitted to the border's colours. Several tolerances are tried,
    the widest first; the first mask wins that covers a share of the picture as garments do (:data:`SMALLEST` to :data:`LARGEST`) and
    little of its border. If none does, the mask is what the widest gave: :func:`plausible` tells.
    """
    rgb = to_rgb(photo)
    small = _reduced(rgb)
    colours = lab(np.asarray(small.filter(ImageFilter.GaussianBlur(1)), np.float32))
    distance = np.linalg.norm(colours - _backdrop(colours), axis=-1)
    noise = float(np.median(distance[border_of(distance.shape)]))
    tries = (_inside(distance, tolerance) for tolerance in (TOLERANCES[0] + 2 * noise, *TOLERANCES))
    widest = next(tries)
    chosen = widest if plausible(widest) else next(filter(plausible, tries), widest)
    enlarged = Image.fromarray(chosen.astype(np.uint8) * 255).resize(rgb.size, Image.Resampling.BILINEAR)
    return np.asarray(enlarged) >= 128


def plausible(mask: Mask) -> bool:
    """Whether a mask covers as much of a picture as garments do, and at most a third of the picture's border."""
    return SMALLEST <= float(mask.mean()) <= LARGEST and float(mask[border_of(mask.shape)].mean()) < 1 / 3


def _inside(distance: Array, tolerance: float) -> Mask:
    border = border_of(distance.shape)
    outside = flood(distance < tolerance, border)
    # both legs of a pair, both shoes
    inside = without_small(grow(shrink(~outside, 1), 1), lambda largest: 0.05 * largest)
    return ~flood(~inside, border)


def garment_sketch(photo: Image.Image, mask: Mask | None = None, *, detail: float = 1.0) -> Image.Image:
    """A line drawing of a garment: L, light strokes on black, as MGD's files have them.

    Edges are Canny's (J. Canny, 1986): gradients of the smoothed picture, thinned across the edge, weak ones only beside strong
    ones; inside the mask, and the mask's outline.

    Args:
        mask: where the garment is; default :func:`garment_mask`.
        detail: 2 draws weaker edges, 0.5 only strong ones.
    """
    rgb = to_rgb(photo)
    mask = garment_mask(rgb) if mask is None else mask
    small = _reduced(rgb)
    fitted = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(small.size, Image.Resampling.BILINEAR)) >= 128
    grey = np.asarray(small.convert("L").filter(ImageFilter.GaussianBlur(1.4)), np.float32)
    strength, across = _gradient(grey)
    inner = shrink(fitted, 4)
    thin = _thinned(strength, across) & inner
    strong = max(14.0, float(np.quantile(strength[inner], 0.90))) / detail if inner.any() else np.inf
    lines = flood(thin & (strength > 0.4 * strong), thin & (strength > strong), diagonal=True)
    lines = without_small(lines, lambda _: 8, diagonal=True)
    outline = fitted & ~shrink(fitted, 1)
    drawn = np.where(outline, 255, np.where(lines, np.clip(130 + 1.2 * strength, 0, 255), 0)).astype(np.uint8)
    drawing = (
        Image.fromarray(drawn).filter(ImageFilter.MaxFilter(3)) if max(rgb.size) > 1.5 * WORKING else Image.fromarray(drawn)
    )
    return drawing.resize(rgb.size, Image.Resampling.BICUBIC)


def lab(rgb: Array) -> Array:
    """sRGB 0..255 (…, 3) -> CIE Lab under D65."""
    linear = np.where(rgb / 255 > 0.04045, ((rgb / 255 + 0.055) / 1.055) ** 2.4, rgb / 255 / 12.92)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32)
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089], np.float32)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1).astype(np.float32)


def _backdrop(colours: Array) -> Array:
    """A smooth surface (second order in x and y) through the border's colours, outliers left out."""
    height, width, _ = colours.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    basis = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1)
    where = border_of((height, width))
    terms, values = basis[where], colours[where]
    weights = np.ones(len(values))
    for _ in range(5):
        root = np.sqrt(weights)[:, None]
        solution = np.linalg.lstsq(terms * root, values * root, rcond=None)[0]
        error = np.linalg.norm(values - terms @ solution, axis=-1)
        weights = 1 / (1 + (error / (1.5 * np.median(error) + 1.0)) ** 2)
    return (basis @ solution).astype(np.float32)


def _reduced(image: Image.Image) -> Image.Image:
    scale = WORKING / max(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)


def _gradient(grey: Array) -> tuple[Array, NDArray[np.int64]]:
    """Strength of the gradient, and its direction as one of four: →, ↘, ↓, ↙."""
    padded = np.pad(grey, 1, mode="edge")
    dx = padded[1:-1, 2:] - padded[1:-1, :-2]
    dy = padded[2:, 1:-1] - padded[:-2, 1:-1]
    sector = np.round(np.arctan2(dy, dx) / (np.pi / 4)).astype(int) % 4
    return np.hypot(dx, dy), sector


def _thinned(strength: Array, across: NDArray[np.int64]) -> Mask:
    """Pixels that are not weaker than their neighbours across the edge."""
    padded = np.pad(strength, 1)
    height, width = strength.shape
    keep = np.zeros(strength.shape, bool)
    for sector, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        behind = padded[1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        keep |= (across == sector) & (strength >= ahead) & (strength > behind)
    return keep
