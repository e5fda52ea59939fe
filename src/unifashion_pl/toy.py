"""The shipped toy knows drawings alone, and says so when it is shown a photo."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from unifashion_pl.arguments import asked_at

SENTENCE = (
    "the shipped model `tiny` is a toy that knows drawings of a made-up wardrobe alone: what it says about photos means nothing. "
    "Train a model on your own (small.yaml) or load another with --model"
)
SIDE, CORNER = 64, 6
#: Of the wardrobe's 289 training pictures (size tiny), photos of garments in use (2,086) and cut-outs on white (300), 2026-11-29: upper corners were
#: smooth in 100 % / 1 % / 100 %, and the frame was of one colour in 0 % / 0 % / 100 %.
SMOOTH, ONE_COLOUR = 0.85, 3.0


class ToyWarning(UserWarning):
    """The shipped toy was given something else than it knows."""


def is_drawing(image: Image.Image) -> bool:
    """Whether a picture may be one of the wardrobe's: they have backdrops that are smooth and yet not of one colour, as hardly a photo has.

    Args:
        image: RGB.
    """
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.float64)
    frame = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    grey = pixels.mean(-1)
    rough = np.abs(4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:])
    corners = rough[:CORNER, :CORNER], rough[:CORNER, -CORNER:]
    return min(float((c <= 3).mean()) for c in corners) >= SMOOTH and float(frame.std(0).mean()) >= ONE_COLOUR


_told: set[str] = set()


def tell(model: object, images: Iterable[Image.Image]) -> None:
    """Warn once per process when the shipped toy is shown a photo."""
    if getattr(model, "toy", False):
        _tell(images)


def tell_of_hits(source: str | None, paths: Iterable[str | None]) -> None:
    """The same when an index of photos is searched, without a model, which a search by text does not load.

    Args:
        source: of the model, as a command names it; None = the shipped one.
        paths: of the pictures that were found; what cannot be read is for others to say.
    """
    if source in (None, "tiny"):
        _tell(_readable(path for path in paths if path is not None))


def _tell(images: Iterable[Image.Image]) -> None:
    if not _told and not all(map(is_drawing, images)):
        _told.add(SENTENCE)
        warnings.warn(SENTENCE, ToyWarning, stacklevel=asked_at())


def _readable(paths: Iterable[str]) -> Iterator[Image.Image]:
    for path in paths:
        try:
            with Image.open(path) as picture:
                picture.draft("RGB", (SIDE, SIDE))
                read = picture.convert("RGB")
        except Exception:  # decoders raise anything; a note is no reason to end a search
            continue
        yield read
