"""What a toy garment is: attributes a person can see, and which of them go together."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace

from unifashion_pl.data.differences import differences as differing

#: sRGB of the twelve colours, far apart in Lab (tests measure it).
COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (26, 26, 30),
    "white": (242, 241, 236),
    "grey": (142, 144, 149),
    "red": (201, 32, 44),
    "pink": (243, 152, 188),
    "orange": (240, 126, 28),
    "yellow": (246, 211, 62),
    "green": (42, 143, 76),
    "teal": (38, 166, 171),
    "blue": (48, 98, 214),
    "purple": (124, 62, 168),
    "brown": (112, 68, 40),
}
#: How often garments have each colour: as in shops, a few are common. Were all as frequent, colours alone would tell the images of a
#: batch apart, and no model would have to learn shapes.
FREQUENCIES = dict(zip(COLOURS, (8, 6, 2, 4, 1, 1, 2, 1, 1, 5, 1, 1)))
PATTERNS = ("plain", "striped", "pinstriped", "checked", "dotted", "floral", "lettered")
#: Colours of patterns; few of them, and two thirds of all garments are plain, for the same reason. Of those that people try on a third is:
#: there are few of them, and of each pattern enough have to be seen.
SECONDS = ("black", "white", "red", "yellow")
PLAIN, PLAIN_WORN = 0.65, 0.35
SLEEVES = ("none", "short", "long")
LENGTHS = ("short", "knee", "long")
BUTTONS = (0, 3, 5)
ATTRIBUTES = ("colour", "pattern", "second", "sleeve", "length", "neckline", "buttons")

#: category -> the values its attributes may take; an attribute that is not listed is fixed to its first value.
RULES: dict[str, dict[str, tuple[object, ...]]] = {
    "dress": {"sleeve": SLEEVES, "length": LENGTHS, "neckline": ("round", "v", "collar", "strapless"), "buttons": (0, 3)},
    "shirt": {"sleeve": SLEEVES, "neckline": ("round", "v", "collar"), "buttons": BUTTONS},
    "top": {"sleeve": SLEEVES, "neckline": ("round", "v", "strapless"), "buttons": (0, 3)},
    "skirt": {"length": LENGTHS, "buttons": (0, 3)},
    "trousers": {"length": LENGTHS},
    "jacket": {"sleeve": ("short", "long"), "neckline": ("collar", "v"), "buttons": (3, 5)},
}
CATEGORIES = tuple(RULES)


@dataclass(frozen=True)
class Product:
    """One garment. ``second`` is the pattern's colour, "" when plain; attributes that a category lacks have their fixed value."""

    category: str
    colour: str
    pattern: str
    second: str
    sleeve: str
    length: str
    neckline: str
    buttons: int

    def attributes(self) -> dict[str, str | int]:
        return asdict(self)


def is_valid(product: Product) -> bool:
    """Strapless garments have no sleeves and no buttons; lettering needs a chest; a pattern needs a second colour."""
    rules = RULES[product.category]
    if any(getattr(product, name) not in values for name, values in rules.items()):
        return False
    if product.neckline == "strapless" and (product.sleeve != "none" or product.buttons):
        return False
    if product.pattern == "lettered" and (product.category in ("skirt", "trousers") or product.buttons):
        return False
    return (product.pattern == "plain") == (product.second == "") and product.second != product.colour


def draw_product(rng: random.Random, category: str | None = None, plain: float = PLAIN) -> Product:
    """A random valid product, which has no pattern with the chance ``plain``."""
    while True:
        chosen = category or rng.choice(CATEGORIES)
        pattern = "plain" if rng.random() < plain else rng.choice(PATTERNS[1:])
        fixed = {"sleeve": "none", "length": "short", "neckline": "round", "buttons": 0}
        values = {name: rng.choice(RULES[chosen].get(name, (value,))) for name, value in fixed.items()}
        second = "" if pattern == "plain" else rng.choice(SECONDS)
        colour = rng.choices(list(FREQUENCIES), list(FREQUENCIES.values()))[0]
        product = Product(chosen, colour, pattern, second, **values)  # type: ignore[arg-type]
        if is_valid(product):
            return product


def make_product(seed: int, index: int, category: str | None = None, plain: float = PLAIN) -> Product:
    """Product ``index`` of a catalogue depends on (seed, index) alone, so a larger catalogue keeps the first ones."""
    return draw_product(random.Random(f"{seed}/product/{index}"), category or CATEGORIES[index % len(CATEGORIES)], plain)


def change(product: Product, names: list[str], rng: random.Random) -> Product | None:
    """The product with every named attribute changed, None if chance found no valid one in 20 tries."""
    for _ in range(20):
        values: dict[str, object] = {}
        for name in names:
            if name == "colour":
                values["colour"] = rng.choice([c for c in COLOURS if c != product.colour])
            elif name == "pattern":
                pattern = rng.choice([p for p in PATTERNS if p != product.pattern])
                values["pattern"] = pattern
                values["second"] = "" if pattern == "plain" else product.second or rng.choice(SECONDS)
            else:
                options = [v for v in RULES[product.category].get(name, ()) if v != getattr(product, name)]
                values[name] = rng.choice(options) if options else getattr(product, name)
        changed = replace(product, **values)  # type: ignore[arg-type]
        if is_valid(changed) and all(getattr(changed, n) != getattr(product, n) for n in names):
            return changed
    return None


def differences(a: Product, b: Product) -> list[str]:
    """Attributes in which two products of one category differ; a second colour counts only if the pattern stays."""
    found = differing(a.attributes(), b.attributes(), ATTRIBUTES)
    return [n for n in found if n != "second" or "pattern" not in found]
