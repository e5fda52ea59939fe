"""Simple figures that wear the garments; because both share one coordinate system, every label map is exact by construction."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unifashion_pl.person.pose import Pose
from unifashion_pl.wardrobe import shapes
from unifashion_pl.wardrobe.drawing import Array, Frame, Garment, backdrop, blur, composite, draw_garment, fill, to_image
from unifashion_pl.wardrobe.patterns import over
from unifashion_pl.wardrobe.products import Product

SKINS = ((246, 214, 190), (228, 184, 150), (198, 148, 112), (158, 108, 78), (112, 74, 54))
HAIRS = ((36, 28, 26), (92, 60, 36), (168, 118, 62), (206, 170, 110), (120, 42, 30))
#: LIP labels as VITON-HD uses them (10 is the neck there).
LIP = {"hair": 2, "upper": 5, "dress": 6, "coat": 7, "trousers": 9, "neck": 10, "skirt": 12, "face": 13, "left_arm": 14}
LIP |= {"right_arm": 15, "left_leg": 16, "right_leg": 17, "left_shoe": 18, "right_shoe": 19}
GARMENT_LABEL = {"shirt": "upper", "top": "upper", "jacket": "coat", "dress": "dress", "skirt": "skirt", "trousers": "trousers"}
#: One colour per body part on black, in the manner of a rendered DensePose.
PART_COLOURS = {"face": (56, 120, 230), "neck": (64, 170, 240), "torso": (20, 80, 200), "left_arm": (60, 200, 130)}
PART_COLOURS |= {"right_arm": (160, 220, 60), "left_leg": (240, 200, 40), "right_leg": (250, 140, 30)}
PART_COLOURS |= {"left_shoe": (230, 60, 40), "right_shoe": (180, 30, 60)}
LEFT_RIGHT = (("left", -1.0), ("right", 1.0))

#: Categories of which people try things on.
UPPER = ("shirt", "top", "jacket")

#: BODY-25 joints in garment units (person's right is the picture's left, x < 0).
JOINTS = [
    (0.0, -0.22), (0.0, 0.0), (-0.22, 0.04), (-0.36, 0.30), (-0.42, 0.56), (0.22, 0.04), (0.36, 0.30), (0.42, 0.56), (0.0, 0.58),
    (-0.12, 0.58), (-0.14, 1.02), (-0.14, 1.44), (0.12, 0.58), (0.14, 1.02), (0.14, 1.44), (-0.035, -0.25), (0.035, -0.25),
    (-0.085, -0.23), (0.085, -0.23), (0.17, 1.50), (0.20, 1.50), (0.13, 1.48), (-0.17, 1.50), (-0.20, 1.50), (-0.13, 1.48),
]  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """Who wears it: drawn from (seed, id) alone."""

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    long_hair: bool
    raised: float
    base_top: tuple[int, int, int]
    base_bottom: tuple[int, int, int]


def draw_figure(rng: random.Random) -> Figure:
    tops, bottoms = ((236, 234, 230), (210, 206, 200), (90, 92, 98)), ((62, 66, 78), (86, 82, 78), (44, 48, 66))
    return Figure(
        rng.choice(SKINS), rng.choice(HAIRS), rng.random() < 0.6, rng.uniform(0.1, 0.7), rng.choice(tops), rng.choice(bottoms)
    )


def _ellipse(x: float, y: float, rx: float, ry: float) -> shapes.Points:
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def _parts(figure: Figure) -> dict[str, list[shapes.Points]]:
    """Body parts from back to front."""
    spread = 0.06 + 0.10 * figure.raised
    ends = [(0.13, 0.04), (0.0, 0.06)] if figure.long_hair else [(0.13, -0.16), (0.0, -0.15)]
    trunk = [(0.06, -0.02), (0.225, 0.03), (0.23, 0.20), (0.175, 0.42), (0.215, 0.56), (0.02, 0.62)]
    back = [(0.10, -0.34), (0.125, -0.2), *ends]
    parts = {"hair_back": [shapes.mirrored(back)], "torso": [shapes.mirrored(trunk)]}
    for side, sign in LEFT_RIGHT:
        flip = (-sign, 1.0)
        leg = [
            (-0.01, 0.44), (0.178, 0.44), (0.228, 0.58), (0.205, 1.02), (0.175, 1.46), (0.095, 1.46), (0.075, 1.02), (0.01, 0.66),
        ]  # fmt: skip
        arm = [
            (0.205, 0.03), (0.265, 0.06), (0.345 + spread, 0.32), (0.41 + spread, 0.60), (0.36 + spread, 0.615),
            (0.285 + spread, 0.36), (0.22, 0.20),
        ]  # fmt: skip
        shoe = [(0.085, 1.45), (0.185, 1.45), (0.225, 1.515), (0.08, 1.52)]
        parts[f"{side}_leg"] = [np.array(leg) * flip]
        parts[f"{side}_arm"] = [np.array(arm) * flip, _ellipse(0.395 + spread, 0.635, 0.032, 0.045) * flip]
        parts[f"{side}_shoe"] = [np.array(shoe) * flip]
    parts["neck"] = [np.array([(-0.055, -0.13), (0.055, -0.13), (0.075, 0.02), (0.0, 0.06), (-0.075, 0.02)])]
    parts["face"] = [_ellipse(0.0, -0.24, 0.088, 0.115)]
    fringe = [
        (0.0, -0.375), (0.085, -0.345), (0.105, -0.25), (0.075, -0.29), (0.0, -0.315), (-0.075, -0.29), (-0.105, -0.25), (-0.085, -0.345),
    ]  # fmt: skip
    parts["hair"] = [np.array(fringe)]
    return parts


@dataclass
class Worn:
    """A person wearing a product; every array is (H, W, …) of the picture's size.

    ``parse`` LIP labels uint8; ``garment`` coverage 0..1; ``dense`` body-part colours;
    ``reach`` coverage of what any upper garment could cover, whatever is worn; ``joints`` 25 × (x, y, confidence) in pixels, 0, 0, 0
    when unseen.
    """

    image: Image.Image
    parse: NDArray[np.uint8]
    garment: Array
    dense: NDArray[np.uint8]
    reach: Array
    sketch: Array
    joints: list[tuple[float, float, float]]

    @property
    def pose(self) -> Pose:
        """The joints that are seen."""
        width, height = self.image.size
        return Pose("body25", (height, width), [(x, y, c) if c and y > 0 else None for x, y, c in self.joints])


def worn_frame(width: int, height: int, rng: random.Random, upper: bool) -> Frame:
    """Whole figure, or (try-on pictures) head to mid-thigh."""
    top, bottom = (-0.42, 0.98) if upper else (-0.44, 1.56)
    scale = height * 0.96 / (bottom - top) * rng.uniform(0.95, 1.02)
    cx, cy = width / 2 + rng.uniform(-0.02, 0.02) * width, height / 2
    return Frame(width, height, scale, float(np.deg2rad(rng.uniform(-2.0, 2.0))), cx, cy, (top + bottom) / 2)


def render_worn(
    product: Product, width: int, height: int, figure: Figure, rng: random.Random, fabric: random.Random, upper: bool = False
) -> Worn:
    """Draw a figure in base clothes, then the product on it; ``rng`` and ``fabric`` as in :func:`draw_garment`."""
    frame = worn_frame(width, height, rng, upper)
    parts = _parts(figure)
    covers = {name: fill(frame, outlines) for name, outlines in parts.items()}
    rgb = backdrop(width, height, rng)
    parse = np.zeros((height, width), np.uint8)
    dense = np.zeros((height, width, 3), np.uint8)
    for name, (colour, label) in _body(figure, product).items():
        cover = covers[name]
        shade = 0.84 + 0.20 * blur(cover, max(1.0, frame.scale * 0.03))
        rgb = over(rgb, np.array(colour, np.float32) * shade[..., None], cover)
        parse[cover > 0.5] = LIP[label]
        if name in PART_COLOURS:
            dense[cover > 0.5] = PART_COLOURS[name]
    eyes = [_ellipse(x, -0.235, 0.0085, 0.010) for x in (-0.034, 0.034)]
    rgb = over(rgb, (42, 34, 34), fill(frame, eyes, rounded=False))
    mouth = fill(frame, [_ellipse(0.0, -0.172, 0.021, 0.007)], rounded=False)
    rgb = over(rgb, (176, 84, 84), 0.8 * mouth)
    drawn = draw_garment(product, frame, rng, fabric, raised=figure.raised)
    visible = drawn.mask * (1 - np.maximum(covers["face"], covers["hair"]))
    garment = Garment(drawn.rgb, visible, drawn.sketch * visible)
    rgb = composite(rgb, garment, frame, shadow=0.30)
    parse[garment.mask > 0.5] = LIP[GARMENT_LABEL[product.category]]
    return Worn(
        to_image(rgb),
        parse,
        garment.mask,
        dense,
        fill(frame, _upper_outlines(product, figure.raised)),
        garment.sketch,
        _joints(frame),
    )


def _upper_outlines(product: Product, raised: float) -> list[shapes.Points]:
    """Bodies and sleeves of all kinds of upper garments; the same for every ``product``."""
    kinds = [
        replace(product, category=category, sleeve=sleeve, neckline="round", length="short")
        for category in UPPER
        for sleeve in ("none", "short", "long")
    ]
    return [outline for kind in kinds for outline in (*shapes.body(kind), *shapes.sleeves(kind, raised))]


def _body(figure: Figure, product: Product) -> dict[str, tuple[tuple[int, int, int], str]]:
    """Colour and LIP label of body parts: skin where the outfit shows it, neutral base clothes where the product leaves the body bare."""
    found = {name: (figure.skin, name) for name in _parts(figure)} | {"torso": (figure.skin, "neck")}
    found |= dict.fromkeys(("hair", "hair_back"), (figure.hair, "hair"))
    found |= {shoe: ((60, 52, 50), shoe) for shoe in ("left_shoe", "right_shoe")}
    if product.category not in shapes.SLEEVED:
        found["torso"] = (figure.base_top, "upper")
    elif product.category != "dress":
        found |= dict.fromkeys(("left_leg", "right_leg"), (figure.base_bottom, "trousers"))
    return found


def _joints(frame: Frame) -> list[tuple[float, float, float]]:
    seen = [(float(x), float(y), 0 <= x < frame.width and 0 <= y < frame.height) for x, y in frame.pixels(np.array(JOINTS))]
    return [(round(x, 2), round(y, 2), 0.9) if inside else (0.0, 0.0, 0.0) for x, y, inside in seen]
