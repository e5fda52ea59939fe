"""What the page searches: an index of one's own, or held-out garments of the wardrobe, drawn and embedded when the page starts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from unifashion_pl.gallery.asking import Asking, read_for
from unifashion_pl.gallery.gallery import gallery_of
from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.inference.images import open_image
from unifashion_pl.interface import FashionModel
from unifashion_pl.names import quoted
from unifashion_pl.wardrobe.catalogue import SIZES, fiq_parts, pair_products
from unifashion_pl.wardrobe.products import Product
from unifashion_pl.wardrobe.render import render_product
from unifashion_pl.wardrobe.texts import describe, name_of

#: Drawn garments: of each category of Fashion-IQ, and of FashionGen's held-out products. Side of their pictures in pixels.
FAMILIES, OTHERS, SIDE = 48, 56, 192
#: Images that the page begins with, and searches that it proposes.
SHELF, TEXTS = 15, 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Catalogue:
    """Something to search, and the pictures of what is found.

    Attributes:
        name: what the page calls it.
        where: the path of an image's picture, None without one; a KeyError of an id that is not there.
        drawn: by id, where pictures lie in no files.
        shelf: ids that the page shows before anything is asked, and what they are called. texts: searches that it proposes.
    """

    asking: Asking
    name: str
    where: Callable[[str], str | None]
    drawn: Mapping[str, Image.Image] = field(default_factory=dict)
    shelf: Mapping[str, str] = field(default_factory=dict)
    texts: Sequence[str] = ()

    def picture(self, id: str) -> Image.Image | None:
        """Of an image that is there, in RGB; None without one that can be read.

        Raises:
            KeyError: an id that is not there.
        """
        if id in self.drawn:
            return self.drawn[id]
        path = self.where(id)
        try:
            return None if path is None else open_image(path)
        except (OSError, ValueError):
            return None


def indexed(folder: Path, model: FashionModel) -> Catalogue:
    """An index that ``unifashion index build`` has made.

    Raises:
        FileNotFoundError, ValueError: no index, a damaged one, or one of another model.
    """
    stored = read_for(folder, encoder := QueryEncoder(lambda: model))

    def where(id: str) -> str | None:
        keys = stored.rows.keys_of([id])
        if id not in keys:
            raise KeyError(f"{quoted(id)} is not in the index {folder}")
        return stored.rows.items([keys[id]])[keys[id]].image

    asking = Asking(encoder, stored)
    first = stored.rows.items(stored.rows.live().keys[:SHELF].tolist())
    return Catalogue(
        asking,
        f"{len(asking):,} images of the index {folder}",
        where,
        shelf={item.id: item.caption or item.id for item in first.values()},
    )


def wardrobe(
    model: FashionModel, told: Progress = lambda done, of: None, families: int = FAMILIES, others: int = OTHERS
) -> Catalogue:
    """Garments that no training of this library has seen: families that differ in few attributes, so that composed searches have an answer.

    Args:
        told: is called with the number of garments drawn, and of how many.
        families, others: how many of each category, and of all categories.
    """
    plan = garments(families, others)
    drawn: dict[str, Image.Image] = {}
    for number, (id, (product, key)) in enumerate(plan.items(), 1):
        drawn[id] = render_product(product, "front", SIDE, key)
        told(number, len(plan))
    columns = [_columns(product) for product, _ in plan.values()]
    asking = gallery_of(model, [*drawn.values()], [*drawn], columns=columns)

    def where(id: str) -> str | None:
        raise KeyError(f"{quoted(id)} is not among the {len(drawn)} drawn garments")

    ids = random.Random(0).sample([*drawn], min(SHELF, len(drawn)))
    kinds = {plan[id][0].category: plan[id][0] for id in ids}
    texts = [describe(product, "fashion200k", random.Random(0)) for product in [*kinds.values()][:TEXTS]]
    shelf = {id: name_of(plan[id][0]) for id in ids}
    return Catalogue(asking, f"{len(drawn)} drawn garments, none of them seen in training", where, drawn, shelf, texts)


def garments(families: int = FAMILIES, others: int = OTHERS) -> dict[str, tuple[Product, str]]:
    """Id -> a held-out garment of the default wardrobe (seed 0), and what its picture is drawn from."""
    found: dict[str, tuple[Product, str]] = {}
    for part in fiq_parts(SIZES["demo"], 0):
        if part.split == "val":
            found |= {id: (product, f"demo/{id}") for id, product in list(zip(part.ids, part.products))[:families]}
    held_out = pair_products(0, "validation", others)
    return found | {f"W{number:04d}": (product, f"0/fashiongen/validation/{number}") for number, product in enumerate(held_out)}


def _columns(product: Product) -> dict[str, Any]:
    return {
        "name": name_of(product),
        "category": product.category,
        "colour": product.colour,
        "described": describe(product, "fashion200k", random.Random(0)),
    }
