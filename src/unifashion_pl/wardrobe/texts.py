"""Texts that are true by construction: captions in three styles and modifying texts."""

from __future__ import annotations

import random

from unifashion_pl.arguments import choice
from unifashion_pl.data import differences as spoken
from unifashion_pl.wardrobe.products import Product, differences
from unifashion_pl.wardrobe.shapes import SLEEVED

PATTERN_WORDS = {
    "striped": "horizontal stripes",
    "pinstriped": "vertical stripes",
    "checked": "checks",
    "dotted": "dots",
    "floral": "flowers",
    "lettered": "lettering",
}
SLEEVE_WORDS = {"none": "sleeveless", "short": "short sleeves", "long": "long sleeves"}
NECK_WORDS = {"round": "round neck", "v": "V-neck", "collar": "collar", "strapless": "strapless"}
LENGTH_WORDS = {"short": "short", "knee": "knee-length", "long": "long"}
STYLES = ("fashion200k", "fashiongen", "fashioniq")
COUNT_WORDS = {0: "no", 3: "three", 5: "five"}
#: How each attribute is spoken of in modifying texts.
PHRASES = {
    "colour": spoken.COLOUR,
    "pattern": spoken.PATTERN,
    "second": spoken.PATTERN,
    "sleeve": spoken.SLEEVES,
    "length": spoken.LENGTH,
    "neckline": spoken.NECKLINE,
    "buttons": spoken.BUTTONS,
}


def _has(product: Product, attribute: str) -> bool:
    return product.category in (("dress", "skirt", "trousers") if attribute == "length" else SLEEVED)


def colour_phrase(product: Product) -> str:
    """``red``, or ``red with white dots``."""
    if product.pattern == "plain":
        return product.colour
    return f"{product.colour} with {product.second} {PATTERN_WORDS[product.pattern]}"


def describe(product: Product, style: str, rng: random.Random) -> str:
    """A caption of the product.

    Args:
        style: ``fashion200k`` (3-6 words), ``fashiongen`` (two or three stylist's sentences) or ``fashioniq`` (one detailed
            sentence).

    Raises:
        ValueError: unknown style.
    """
    if choice(style, "caption style", STYLES) == "fashion200k":
        length = f"{LENGTH_WORDS[product.length]} " if _has(product, "length") else ""
        sleeves = {"none": "sleeveless ", "short": "", "long": "long-sleeved "}
        sleeve = sleeves[product.sleeve] if _has(product, "sleeve") else ""
        return f"{product.colour} {product.pattern} {length}{sleeve}{product.category}"
    return _stylist(product, rng) if style == "fashiongen" else _detailed(product, rng)


def name_of(product: Product) -> str:
    """The catalogue's product name, e.g. ``Red Dotted Dress``."""
    return f"{product.colour} {product.pattern} {product.category}".title()


def _long(product: Product) -> str:
    """``knee-length dress``, or the category alone where it has but one length."""
    return f"{LENGTH_WORDS[product.length]} {product.category}" if _has(product, "length") else product.category


def _stylist(product: Product, rng: random.Random) -> str:
    first = f"{_long(product).capitalize()} in {colour_phrase(product)}."
    details = []
    if _has(product, "sleeve"):
        details.append(SLEEVE_WORDS[product.sleeve].capitalize())
    if _has(product, "neckline"):
        names = {"collar": "shirt collar", "strapless": "strapless cut"}
        details.append(names.get(product.neckline, NECK_WORDS[product.neckline]))
    second = f"{' and '.join(details)}." if details else ""
    buttons = COUNT_WORDS[product.buttons].capitalize()
    third = f"{buttons} buttons at front." if product.buttons else rng.choice(["No buttons.", ""])
    return " ".join(part for part in (first, second, third) if part)


def _detailed(product: Product, rng: random.Random) -> str:
    noun = _long(product).replace("trousers", "pair of trousers")
    text = f"{rng.choice(['A', 'This is a'])} {noun} in {colour_phrase(product)}"
    details = []
    if _has(product, "sleeve"):
        details.append("no sleeves" if product.sleeve == "none" else SLEEVE_WORDS[product.sleeve])
    if _has(product, "neckline"):
        details.append("no straps" if product.neckline == "strapless" else f"a {NECK_WORDS[product.neckline]}")
    if product.buttons:
        details.append(f"{COUNT_WORDS[product.buttons]} buttons")
    *most, last = details or [""]
    return f"{text}, with {', '.join(most)}{' and ' if most else ''}{last}." if details else f"{text}."


def said(product: Product) -> dict[str, str]:
    """What a product is, attribute by attribute, in the words of modifying texts."""
    pattern = "plain" if product.pattern == "plain" else f"{product.second} {PATTERN_WORDS[product.pattern]}"
    return {
        "colour": product.colour,
        "pattern": pattern,
        "second": pattern,
        "sleeve": product.sleeve,
        "length": LENGTH_WORDS[product.length],
        "neckline": NECK_WORDS[product.neckline],
        "buttons": COUNT_WORDS[product.buttons],
    }


def modifying_texts(reference: Product, target: Product, rng: random.Random) -> tuple[str, str]:
    """Two texts that lead from the reference to the target, from different phrase tables; each names every difference.

    >>> a = Product("skirt", "red", "plain", "", "none", "short", "round", 0)
    >>> modifying_texts(a, Product("skirt", "red", "plain", "", "none", "long", "round", 0), random.Random(0))
    ('is long', 'longer')

    Raises:
        ValueError: different categories, or no difference.
    """
    if reference.category != target.category:
        raise ValueError(f"a modifying text stays inside a category, got {reference.category} -> {target.category}")
    return spoken.modifying_texts(said(reference), said(target), differences(reference, target), PHRASES, rng)
