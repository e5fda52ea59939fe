"""Something to try without a photo at hand: drawn persons with the region that is repainted, garments, sentences."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from unifashion_pl.wardrobe.drawing import render_flat
from unifashion_pl.wardrobe.person import draw_figure, render_worn
from unifashion_pl.wardrobe.tryon import fabric_of, person_of, product_of, repaint_mask

#: Width and height of the drawings, and numbers of held-out pairs of the wardrobe.
SIZE, FIRST, PERSONS, GARMENTS = (288, 384), 50_000, 4, 6
CHANGES = ("is blue", "has longer sleeves", "with white stripes", "sleeveless")
DESIGNS = ("red with white dots", "plain green shirt, long sleeves", "yellow with black horizontal stripes")


@dataclass(frozen=True)
class Example:
    """A picture by name; of persons with the region that is repainted, white on black, and the sketch of what they wear."""

    name: str
    said: str
    picture: Image.Image
    mask: Image.Image | None = None


def persons(number: int = PERSONS) -> list[Example]:
    """Drawn persons."""
    made = []
    for i in range(number):
        rng = person_of(0, FIRST + i)
        worn = render_worn(product_of(0, FIRST + i), *SIZE, draw_figure(rng), rng, fabric_of(0, FIRST + i), upper=True)
        made.append(Example(f"person-{i}", f"drawn person {i + 1}", worn.image, Image.fromarray(repaint_mask(worn))))
    return made


def clothes(number: int = GARMENTS) -> list[Example]:
    """Drawn garments, of other pairs than the persons."""
    made = []
    for i in range(PERSONS, PERSONS + number):
        product = product_of(0, FIRST + i)
        flat, _, _ = render_flat(product, *SIZE, person_of(0, FIRST + i), fabric_of(0, FIRST + i))
        made.append(Example(f"garment-{i - PERSONS}", f"{product.colour} {product.pattern} {product.category}", flat))
    return made
