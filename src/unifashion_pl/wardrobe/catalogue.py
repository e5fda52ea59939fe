"""Which products, views and triplets a wardrobe of a given size and seed holds; no pixels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from unifashion_pl.arguments import choice
from unifashion_pl.wardrobe.products import ATTRIBUTES, RULES, Product, change, differences, draw_product, make_product
from unifashion_pl.wardrobe.texts import modifying_texts

VIEWS = ("front", "worn", "hanger", "detail")
FIQ_CATEGORIES = {"dress": "dress", "shirt": "shirt", "toptee": "top"}
FIQ_SPLITS = ("test", "train", "val")
FAMILY = 4


@dataclass(frozen=True)
class WardrobeSpec:
    """How much is drawn.

    Attributes:
        products_train, products_val, views, image_size: FashionGen; pixels are square.
        fiq_train, fiq_val: Fashion-IQ triplets per category; fiq_gallery: images per category of the validation gallery.
        tryon_train, tryon_test: VITON-HD pairs; tryon_size: (width, height).
        short_train, short_test: products of Fashion200K, two views each.
    """

    products_train: int = 900
    products_val: int = 600
    views: int = 3
    image_size: int = 128
    fiq_train: int = 700
    fiq_val: int = 120
    fiq_gallery: int = 200
    tryon_train: int = 48
    tryon_test: int = 16
    tryon_size: tuple[int, int] = (192, 256)
    short_train: int = 300
    short_test: int = 40


SIZES = {
    "tiny": WardrobeSpec(
        products_train=24, products_val=24, image_size=64, fiq_train=8, fiq_val=6, fiq_gallery=12,
        tryon_train=4, tryon_test=3, tryon_size=(96, 128), short_train=12, short_test=6,
    ),
    "tryon": WardrobeSpec(
        products_train=300, products_val=24, fiq_train=80, fiq_val=6, fiq_gallery=12,
        tryon_train=1600, tryon_test=64, tryon_size=(96, 128), short_train=120, short_test=6,
    ),
    "demo": WardrobeSpec(),
}  # fmt: skip


def spec_of(spec: WardrobeSpec | str) -> WardrobeSpec:
    """A size of :data:`SIZES` by its name, or the spec itself.

    Raises:
        ValueError: unknown size.
    """
    return spec if isinstance(spec, WardrobeSpec) else SIZES[choice(spec, "wardrobe size", SIZES)]


@dataclass(frozen=True)
class Triplet:
    """Positions of reference and target in the split's product list, and the two modifying texts."""

    reference: int
    target: int
    texts: tuple[str, str]


@dataclass(frozen=True)
class FiqPart:
    """One category of one Fashion-IQ split: its gallery of products with distinct attributes, their ids, and its triplets."""

    category: str
    split: str
    products: tuple[Product, ...]
    ids: tuple[str, ...]
    triplets: tuple[Triplet, ...]


FIRST = {"train": 0, "validation": 1_000_000, "short-train": 3_000_000, "short-test": 4_000_000}


def pair_products(seed: int, split: str, count: int) -> list[Product]:
    """Products of FashionGen (``train``, ``validation``) or Fashion200K (``short-…``); their numbers are far from each other."""
    return [make_product(seed, FIRST[split] + i) for i in range(count)]


def fiq_split(seed: int, split: str, category: str, triplets: int, gallery: int, taken: set[Product]) -> FiqPart:
    """Families of four products that differ in two or three attributes from their base; every target occurs once.

    Args:
        taken: products of earlier splits; none of them occurs again, and this split's are added.
    """
    rng = random.Random(f"{seed}/fashion-iq/{split}/{category}")
    rules = RULES[FIQ_CATEGORIES[category]]
    names = [n for n in ATTRIBUTES if n in ("colour", "pattern") or len(rules.get(n, ())) > 1]
    products: list[Product] = []
    families: list[range] = []
    while len(products) < max(triplets, gallery):
        family = _family(rng, FIQ_CATEGORIES[category], names, taken)
        families.append(range(len(products), len(products) + len(family)))
        products += family
    chosen = []
    for members in families:
        for target in members:
            if options := [m for m in members if 1 <= len(differences(products[m], products[target])) <= 3]:
                chosen.append((rng.choice(options), target))
    rng.shuffle(chosen)
    found = tuple(Triplet(r, t, _dirty(modifying_texts(products[r], products[t], rng), rng)) for r, t in chosen[:triplets])
    ids = tuple(asin(seed, "fiq", split, category, i) for i in range(len(products)))
    return FiqPart(category, split, tuple(products), ids, found)


def fiq_parts(spec: WardrobeSpec, seed: int) -> Iterator[FiqPart]:
    """All categories of Fashion-IQ, of each its splits ``train``, ``val``, ``test``; no product stands in two splits."""
    for category in FIQ_CATEGORIES:
        taken: set[Product] = set()
        for split, triplets, gallery in (
            ("train", spec.fiq_train, 0),
            ("val", spec.fiq_val, spec.fiq_gallery),
            ("test", 0, min(6, spec.fiq_val) * 2),
        ):
            yield fiq_split(seed, split, category, triplets or min(6, spec.fiq_val), gallery, taken)


def fiq_distractors(seed: int, split: str) -> dict[str, Product]:
    """The two images that the galleries of shirt and toptee share in a split."""
    return {asin(seed, "shared", split, k): make_product(seed, FIRST["validation"] + k + 8) for k in range(2)}


def _family(rng: random.Random, category: str, names: list[str], taken: set[Product]) -> list[Product]:
    while (base := draw_product(rng, category)) in taken:
        pass
    family = [base]
    taken.add(base)
    for _ in range(40):
        if len(family) == FAMILY:
            break
        variant = change(rng.choice(family), rng.sample(names, rng.choice((1, 2, 2, 3))), rng)
        if variant is not None and variant not in taken:
            family.append(variant)
            taken.add(variant)
    return family


def _dirty(texts: tuple[str, str], rng: random.Random) -> tuple[str, str]:
    """Blanks at the ends (2.8 % of texts), equal pairs (0.6 %) and empty strings (0.03 %, never both), as in Fashion-IQ."""
    first, second = texts
    if rng.random() < 0.006:
        second = first
    if rng.random() < 0.0006:
        second = ""
    padded = [f" {t}" if t and rng.random() < 0.014 else t for t in (first, second)]
    padded = [f"{t} " if t and rng.random() < 0.014 else t for t in padded]
    return padded[0], padded[1]


def asin(*parts: object) -> str:
    """A ten-character id in Fashion-IQ's form, from the parts alone."""
    rng = random.Random("/".join(map(str, parts)))
    return "B0" + "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for _ in range(8))
