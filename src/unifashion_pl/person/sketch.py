"""In-shop photos of garments: their mask by flood fill from the border, and a line drawing of them.

A stand-in for the masks and sketches that the datasets deliver or did not publish: good on quiet backdrops, and it says when not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.feature import canny

from unifashion_pl.data.decode import to_rgb
from unifashion_pl.person.masks import Mask

Array = NDArray[np.floating[Any]]
#: Share of the picture below which published code takes a cloth mask for broken: 122,880 of 768 × 1024 pixels.
SMALLEST, LARGEST = 0.156, 0.85
#: How far a colour may be from the backdrop's, in Lab units.
TOLERANCES = (26.0, 18.0, 12.0, 8.0, 5.0)
#: Side to which photos are reduced before masks and lines are looked for: noise goes, and 768 × 1024 takes a tenth of the time.
WORKING = 384
#: Neighbours of a pixel: with those at its corners.
CORNERS = np.ones((3, 3), bool)
#: Smallest gradient (Sobel's, of grey levels) that is a line whatever the picture, and the share of it that goes on with a line.
WEAKEST, ONWARD = 56.0, 0.4


def garment_mask(photo: Image.Image) -> Mask:
    """Where the garment is, (h, w) bool: what a flood fill from the border does not reach, without small islands and holes.

    A pixel is like the backdrop if its colour is near a smooth surface fitted to the border's colours. Several tolerances are tried,
    the widest first; the first mask wins that covers a share of the picture as garments do (:data:`SMALLEST` to :data:`LARGEST`) and
    little of its border. If none does, the mask is what the widest gave: :func:`plausible` tells.
    """
    rgb = to_rgb(photo)
    small = _reduce(rgb)
    colours = rgb2lab(np.asarray(small.filter(ImageFilter.GaussianBlur(1)))).astype(np.float32)
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


def border_of(shape: tuple[int, ...]) -> Mask:
    """True in the two outermost rows and columns."""
    border = np.ones(shape, bool)
    border[2:-2, 2:-2] = False
    return border


def _inside(distance: Array, tolerance: float) -> Mask:
    near = distance < tolerance
    outside = ndimage.binary_propagation(near & border_of(near.shape), mask=near)
    opened = ndimage.maximum_filter(ndimage.minimum_filter(~outside, 3), 3)
    # both legs of a pair, both shoes
    pieces, _ = ndimage.label(opened)
    filled: Mask = ndimage.binary_fill_holes(_large(pieces, 0.05 * np.bincount(pieces.ravel())[1:].max(initial=0)))
    return filled


def _large(pieces: NDArray[np.integer[Any]], smallest: float) -> Mask:
    """Where pieces of at least ``smallest`` pixels are; they are numbered from 1."""
    sizes = np.bincount(pieces.ravel())
    large: Mask = (np.arange(len(sizes)) > 0)[pieces] & (sizes >= smallest)[pieces]
    return large


def garment_sketch(photo: Image.Image, mask: Mask | None = None, *, detail: float = 1.0) -> Image.Image:
    """A line drawing of a garment: L, light strokes on black, as MGD's files have them.

    Canny's edges inside of the mask, and the mask's outline.

    Args:
        mask: where the garment is; default :func:`garment_mask`.
        detail: 2 draws weaker edges, 0.5 only strong ones.
    """
    rgb = to_rgb(photo)
    mask = garment_mask(rgb) if mask is None else mask
    small = _reduce(rgb)
    fitted = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(small.size, Image.Resampling.BILINEAR)) >= 128
    smooth = np.asarray(small.convert("L").filter(ImageFilter.GaussianBlur(1.4)), np.float32)
    strength = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))
    inner = ndimage.minimum_filter(fitted, 7)  # Canny's own mask leaves out one more pixel
    strong = max(WEAKEST, float(np.quantile(strength[inner], 0.90))) / detail if inner.any() else np.inf
    lines = _large(ndimage.label(canny(smooth, 0, ONWARD * strong, strong, mask=inner), CORNERS)[0], 8)
    outline = fitted & ~ndimage.minimum_filter(fitted, 3)
    drawn = np.where(outline, 255, np.where(lines, np.clip(130 + 0.3 * strength, 0, 255), 0)).astype(np.uint8)
    drawing = Image.fromarray(drawn)
    if max(rgb.size) > 1.5 * WORKING:
        drawing = drawing.filter(ImageFilter.MaxFilter(3))
    return drawing.resize(rgb.size, Image.Resampling.BICUBIC)


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


def _reduce(image: Image.Image) -> Image.Image:
    scale = WORKING / max(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)
