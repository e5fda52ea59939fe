"""Drawing a garment: outline -> mask -> pattern -> folds and light -> backdrop."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from unifashion_pl.wardrobe import shapes
from unifashion_pl.wardrobe.patterns import over, texture
from unifashion_pl.wardrobe.products import COLOURS, Product

Array = NDArray[np.floating[Any]]
OVERSAMPLE = 3
BLACK = (0, 0, 0)
BACKDROPS = (
    (233, 228, 220), (221, 227, 232), (236, 231, 226), (226, 232, 224), (238, 229, 229), (229, 229, 236), (240, 236, 226),
)  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """Garment units -> pixels: scale (pixels per unit), tilt (radians), and the pixel where (0, ``pivot``) lands."""

    width: int
    height: int
    scale: float
    tilt: float
    cx: float
    cy: float
    pivot: float = 0.0

    def pixels(self, points: shapes.Points) -> shapes.Points:
        """(n, 2) garment units -> (n, 2) pixels."""
        c, s = np.cos(self.tilt), np.sin(self.tilt)
        centred = (points - (0, self.pivot)) * self.scale
        return centred @ np.array([[c, s], [-s, c]]) + (self.cx, self.cy)

    def units(self) -> tuple[Array, Array]:
        """Garment coordinates x, y of every pixel, each (height, width)."""
        py, px = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32)
        dx, dy = (px + 0.5 - self.cx) / self.scale, (py + 0.5 - self.cy) / self.scale
        c, s = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        return c * dx + s * dy, -s * dx + c * dy + np.float32(self.pivot)


def fill(frame: Frame, outlines: list[shapes.Points], rounded: bool = True) -> Array:
    """Anti-aliased coverage 0..1 of closed outlines, (height, width)."""
    canvas = Image.new("L", (frame.width * OVERSAMPLE, frame.height * OVERSAMPLE))
    draw = ImageDraw.Draw(canvas)
    for outline in outlines:
        points = frame.pixels(shapes.smooth(outline) if rounded else outline) * OVERSAMPLE
        draw.polygon([(float(x), float(y)) for x, y in points], fill=255)
    return np.asarray(canvas.reduce(OVERSAMPLE), np.float32) / 255


def blur(mask: Array, radius: float) -> Array:
    image = Image.fromarray((np.clip(mask, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


@dataclass
class Garment:
    """A garment rendered into a frame: ``rgb`` (H, W, 3) in 0..255 and ``mask`` (H, W) coverage; ``sketch`` (H, W) stroke strength."""

    rgb: Array
    mask: Array
    sketch: Array


def draw_garment(product: Product, frame: Frame, rng: random.Random, fabric: random.Random, raised: float = 0.6) -> Garment:
    """Outline, pattern, folds, collar, seams and buttons of one garment; the caller puts it on a backdrop or a body.

    Args:
        rng: the photo: folds and light.
        fabric: the item: where its pattern lies and what is printed on it. Photos of one item have it in common.
    """
    torso = fill(frame, shapes.body(product))
    arms = fill(frame, shapes.sleeves(product, raised))
    mask = np.maximum(torso, arms)
    hole = fill(frame, shapes.neck(product), rounded=product.neckline != "v")
    flaps = fill(frame, shapes.collar(product), rounded=False)
    mask = np.maximum(mask * (1 - hole), flaps)
    x, y = frame.units()
    rgb = texture(product, x, y, fabric, blur_units=0.7 / frame.scale)
    # darker towards the sides, as on a rounded body; sleeves lie a little behind
    depth = blur(mask, max(1.0, frame.scale * 0.05))
    volume = (0.80 + 0.26 * depth) * (1 - 0.07 * np.clip(arms - torso, 0, 1))
    edge = np.clip((blur(mask, max(0.8, frame.scale * 0.012)) - 0.45) * 2.2, 0, 1)
    rgb = rgb * (_folds(product, x, y, rng) * volume * (0.80 + 0.20 * edge))[..., None]
    patches = fill(frame, shapes.pockets(product), rounded=False)
    rgb = over(rgb, BLACK, 0.16 * patches)
    lines = _lines(frame, np.maximum(flaps, patches), torso, arms)
    lines = np.maximum(lines, fill(frame, shapes.waistband(product), rounded=False))
    rgb = _buttons(product, frame, over(rgb, BLACK, 0.30 * lines))
    outline = np.clip(mask * (1 - blur(mask, max(1.0, frame.scale * 0.008))) * 3.2, 0, 1)
    return Garment(rgb, mask, np.clip(np.maximum(outline, lines * mask), 0, 1))


def _folds(product: Product, x: Array, y: Array, rng: random.Random) -> Array:
    """Soft vertical folds that widen towards the hem, and one broad light."""
    phase, other, side = rng.uniform(0, 6.3), rng.uniform(0, 6.3), rng.uniform(-1, 1)
    loose = 0.55 if product.category in ("skirt", "dress") else 0.30
    spread = 1.0 / (0.7 + 0.5 * np.clip(y, 0, 1.5))
    waves = np.sin(x * 24 * spread + phase + 1.5 * np.sin(y * 3 + other)) * np.clip(y - 0.3, 0, 1) * loose
    drape = np.sin((x * 0.8 + y) * 9 + other) * 0.05
    return (1.0 + 0.13 * waves + 0.5 * drape + 0.10 * side * x / 0.4).astype(np.float32)


def _lines(frame: Frame, flaps: Array, torso: Array, arms: Array) -> Array:
    """Seams: around the collar and where sleeves meet the body."""
    radius = max(0.7, frame.scale * 0.006)
    seams = np.clip(4 * torso * (1 - blur(torso, radius)), 0, 1) * (arms > 0.5)
    around = np.clip(blur(flaps, radius) * (1 - flaps) * 3 + 3 * flaps * (1 - blur(flaps, radius)), 0, 1)
    return np.maximum(0.8 * seams, around)


def _buttons(product: Product, frame: Frame, rgb: Array) -> Array:
    places = shapes.button_places(product)
    if not places:
        return rgb
    dark = sum(COLOURS[product.colour]) > 330
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    top, bottom = places[0][1] - 0.06, places[-1][1] + 0.08
    line = fill(frame, [np.array([(-0.004, top), (0.004, top), (0.004, bottom), (-0.004, bottom)])], rounded=False)
    disc = fill(frame, [circle * 0.024 + np.array(place) for place in places], rounded=False)
    rim = fill(frame, [circle * 0.030 + np.array(place) + (0.003, 0.005) for place in places], rounded=False)
    rgb = over(over(rgb, BLACK, 0.35 * line), BLACK, 0.4 * rim)
    return over(rgb, (46, 40, 38) if dark else (236, 228, 212), disc)


def backdrop(width: int, height: int, rng: random.Random) -> Array:
    """A quiet studio wall and floor, (H, W, 3)."""
    base = np.array(rng.choice(BACKDROPS), np.float32)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    light = 1.0 + rng.uniform(0.01, 0.05) * (1 - 2 * y) - 0.05 * (x - rng.uniform(-0.6, 0.6)) ** 2
    return np.clip(base * light[..., None], 0, 255)


def composite(base: Array, garment: Garment, frame: Frame, shadow: float = 0.22) -> Array:
    """Lay a garment with a soft shadow over a picture."""
    radius = max(1.5, frame.scale * 0.03)
    shade = np.roll(blur(garment.mask, radius), (round(radius * 0.9), round(radius * 0.5)), (0, 1))
    return over(over(base, BLACK, shadow * (shade * (1 - garment.mask))), garment.rgb, garment.mask)


def flat_frame(product: Product, width: int, height: int, rng: random.Random) -> Frame:
    """Centre the garment and fill most of the picture, with ±8 % scale and ±4° tilt."""
    left, top, right, bottom = shapes.extent(product)
    scale = min(width * 0.86 / (right - left), height * 0.86 / (bottom - top), height * 0.95) * rng.uniform(0.92, 1.04)
    tilt = np.deg2rad(rng.uniform(-4, 4))
    middle = (top + bottom) / 2
    jitter = (rng.uniform(-0.02, 0.02) * width, rng.uniform(-0.02, 0.02) * height)
    return Frame(width, height, scale, float(tilt), width / 2 + jitter[0], height / 2 + jitter[1], middle)


def hanger(frame: Frame, product: Product) -> Array:
    """Coverage of a wooden hanger behind the garment, zeros for garments that hang by the waist."""
    y = -0.02 if product.category in shapes.SLEEVED else 0.40
    bar = np.array(
        [(-0.24, y + 0.05), (0.0, y - 0.06), (0.24, y + 0.05), (0.22, y + 0.075), (0.0, y - 0.025), (-0.22, y + 0.075)]
    )
    angle = np.linspace(-0.5 * np.pi, 1.1 * np.pi, 16)
    ring = np.stack([0.030 * np.cos(angle), y - 0.115 + 0.030 * np.sin(angle)], 1)
    inner = np.stack([0.020 * np.cos(angle[::-1]), y - 0.115 + 0.020 * np.sin(angle[::-1])], 1)
    stem = np.array([(-0.006, y - 0.09), (0.006, y - 0.09), (0.006, y - 0.04), (-0.006, y - 0.04)])
    return fill(frame, [bar, np.concatenate([ring, inner]), stem], rounded=False)


def to_image(rgb: Array) -> Image.Image:
    return Image.fromarray(np.clip(rgb + 0.5, 0, 255).astype(np.uint8))


def render_flat(
    product: Product, width: int, height: int, rng: random.Random, fabric: random.Random, on_hanger: bool = False
) -> tuple[Image.Image, Array, Array]:
    """An in-shop photo: picture, garment mask (H, W) 0..1 and sketch strength (H, W); ``rng``, ``fabric`` as in :func:`draw_garment`."""
    frame = flat_frame(product, width, height, rng)
    base = backdrop(width, height, rng)
    if on_hanger:
        base = over(base, (150, 108, 70), hanger(frame, product))
    garment = draw_garment(product, frame, rng, fabric, raised=0.15 if on_hanger else rng.uniform(0.4, 0.9))
    return to_image(composite(base, garment, frame)), garment.mask, garment.sketch
