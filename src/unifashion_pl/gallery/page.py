"""Hits as one HTML page that needs nothing beside it: pictures, scores in their parts, facets, and where a token looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unifashion_pl.gallery.calibration import Verdict
from unifashion_pl.gallery.hits import Hit
from unifashion_pl.gallery.items import Value
from unifashion_pl.gallery.segments import Floats
from unifashion_pl.pages import environment, inside, small

#: Side of a thumbnail in pixels.
SIDE = 320


def page(
    query: Mapping[str, Any],
    hits: Sequence[Hit],
    pictures: Mapping[str, Image.Image],
    facets: Mapping[str, Mapping[Value, int]],
    heat: Mapping[str, Floats],
    asked_with: Image.Image | None = None,
    said: Verdict | None = None,
) -> str:
    """The page; whatever texts hold is escaped.

    Args:
        query: what was asked, by the names of its parts.
        pictures: by the ids of hits, those that could be read.
        facets: counts of values by columns.
        heat: maps in 0..1 by ids, laid over the pictures.
        asked_with: the request's image.
        said: what the index's threshold says of the hits.
    """
    return (
        environment("unifashion_pl.gallery")
        .get_template("hits.html.j2")
        .render(
            text=query.get("text"),
            query={name: value for name, value in query.items() if value not in (None, "", [], ())},
            hits=hits,
            pictures={id: inside(small(picture, SIDE)) for id, picture in pictures.items()},
            facets=facets,
            heat={id: inside(_overlay(values, pictures[id]), "PNG") for id, values in heat.items() if id in pictures},
            asked_with=None if asked_with is None else inside(small(asked_with, SIDE)),
            said=said,
            file_name=lambda path: Path(path).name,
        )
    )


def _overlay(heat: Floats, picture: Image.Image) -> Image.Image:
    """Red where it is hot, clear where it is not, over what the tower sees of a picture: the square in the middle, with the bars of
    :func:`unifashion_pl.data.transforms.target_pad` beside a long one."""
    width, height = small(picture, SIDE).size
    least = max(width, height) / 1.25
    side = round(max(min(width, height), least)) if max(width, height) >= 1.25 * min(width, height) else min(width, height)
    colour = np.zeros((*heat.shape, 4), np.uint8)
    colour[..., 0], colour[..., 1] = 230, 40
    colour[..., 3] = np.rint(np.clip(heat, 0, 1) * 190)
    over = Image.new("RGBA", (width, height))
    square = Image.fromarray(colour, "RGBA").resize((side, side), Image.Resampling.BICUBIC)
    over.paste(square, ((width - side) // 2, (height - side) // 2))
    return over
