"""Garment outlines in garment units: x to the right with 0 on the midline, y downwards from the shoulder line:
skirts begin at y = 0.42, knee-length hems lie at 1.06, floor-length ones at 1.42. Worn garments use the same outlines, so masks on a body are exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unifashion_pl.wardrobe.products import Product

Points = NDArray[np.float64]

HEMS = {"short": 0.78, "knee": 1.06, "long": 1.42}
SLEEVED = ("dress", "shirt", "top", "jacket")


def mirrored(right: list[tuple[float, float]]) -> Points:
    """Close a right half outline (top to bottom) with its mirror image."""
    half = np.array(right)
    return np.concatenate([half, half[::-1] * (-1, 1)])


def smooth(points: Points, rounds: int = 2) -> Points:
    """Chaikin's corner cutting of a closed polygon."""
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.8 * points + 0.2 * following, 0.2 * points + 0.8 * following], 1).reshape(-1, 2)
    return points


def body(product: Product) -> list[Points]:
    """Outlines of the garment without sleeves (two for trousers)."""
    hem = HEMS[product.length]
    if product.category == "skirt":
        width = {"short": 0.37, "knee": 0.41, "long": 0.46}[product.length]
        return [mirrored([(0.185, 0.42), (0.20, 0.45), (0.28, 0.58), (width - 0.01, hem - 0.05), (width, hem)])]
    if product.category == "trousers":
        ankle = {"short": 0.31, "knee": 0.28, "long": 0.24}[product.length]
        leg = [(ankle + 0.02, hem - 0.03), (ankle + 0.02, hem), (ankle - 0.16, hem), (ankle - 0.165, hem - 0.03)]
        return [mirrored([(0.19, 0.42), (0.20, 0.44), (0.275, 0.58), *leg, (0.02, 0.70), (0.0, 0.685)])]
    if product.neckline == "strapless":
        top = [(0.0, 0.15), (0.10, 0.13), (0.235, 0.14), (0.24, 0.24)]
    elif product.sleeve == "none":
        top = [(0.10, -0.01), (0.19, 0.01), (0.195, 0.10), (0.245, 0.22)]
    else:
        top = [(0.10, -0.01), (0.27, 0.03), (0.285, 0.12), (0.26, 0.24)]
    if product.category == "dress":
        width = {"short": 0.36, "knee": 0.41, "long": 0.48}[product.length]
        return [mirrored([*top, (0.20, 0.42), (0.29, 0.60), (width, hem)])]
    ease, bottom = {"shirt": (0.245, 0.70), "top": (0.22, 0.52), "jacket": (0.31, 0.80)}[product.category]
    return [mirrored([*top, (ease - 0.01, 0.42), (ease + 0.02, bottom)])]


def sleeves(product: Product, raised: float = 0.0) -> list[Points]:
    """Outlines of both sleeves; ``raised`` (0..1) lifts them from hanging to spread."""
    if product.category not in SLEEVED or product.sleeve == "none":
        return []
    out = 0.06 + 0.10 * raised
    if product.sleeve == "short":
        arm = [(0.20, 0.01), (0.28, 0.03), (0.40 + out / 2, 0.22), (0.29 + out / 2, 0.29), (0.235, 0.20)]
    else:
        outer, inner = [(0.41 + out, 0.33), (0.46 + out, 0.62)], [(0.355 + out, 0.645), (0.31 + out, 0.36)]
        arm = [(0.20, 0.01), (0.28, 0.03), *outer, *inner, (0.235, 0.21)]
    return _both(arm)


def _both(right: list[tuple[float, float]]) -> list[Points]:
    """An outline on the right and its mirror image."""
    return [np.array(right), np.array(right) * (-1, 1)]


def neck(product: Product) -> list[Points]:
    """The hole at the neck, none where the garment has none."""
    if product.category not in SLEEVED or product.neckline == "strapless":
        return []
    if product.neckline == "v":
        return [np.array([(-0.115, -0.05), (0.115, -0.05), (0.0, 0.25)])]
    depth = 0.12 if product.neckline == "round" else 0.06
    angle = np.linspace(0, np.pi, 15)
    return [np.stack([0.125 * np.cos(angle), -0.03 + (depth + 0.03) * np.sin(angle)], 1)]


def collar(product: Product) -> list[Points]:
    """The two flaps of a shirt collar."""
    if product.category not in SLEEVED or product.neckline != "collar":
        return []
    return _both([(0.005, 0.055), (0.125, -0.055), (0.185, 0.02), (0.075, 0.155)])


def button_places(product: Product) -> list[tuple[float, float]]:
    """Centres of the buttons on the midline."""
    if not product.buttons:
        return []
    top, bottom = {"skirt": (0.48, 0.66), "dress": (0.20, 0.52), "top": (0.22, 0.46)}.get(product.category, (0.18, 0.62))
    if product.neckline == "v" and product.category in SLEEVED:
        top = max(top, 0.30)
    return [(0.0, float(y)) for y in np.linspace(top, bottom, product.buttons)]


def pockets(product: Product) -> list[Points]:
    """Outlines of flaps: two at the hips of a jacket, one on the chest of a shirt with a collar."""
    if product.category == "jacket":
        return _both([(0.09, 0.53), (0.26, 0.53), (0.26, 0.61), (0.09, 0.61)])
    if product.category == "shirt" and product.neckline == "collar":
        return [np.array([(0.07, 0.24), (0.17, 0.24), (0.17, 0.33), (0.07, 0.33)])]
    return []


def waistband(product: Product) -> list[Points]:
    """A line across the waist of skirts and trousers."""
    if product.category in SLEEVED:
        return []
    return [np.array([(-0.205, 0.462), (0.205, 0.462), (0.207, 0.472), (-0.207, 0.472)])]


def extent(product: Product) -> tuple[float, float, float, float]:
    """left, top, right, bottom of the flat garment."""
    points = np.concatenate([*body(product), *sleeves(product, 0.6)])
    left, top = points.min(0)
    right, bottom = points.max(0)
    return float(left), min(float(top), -0.05 if product.category in SLEEVED else float(top)), float(right), float(bottom)
