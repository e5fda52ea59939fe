"""Vectors of what is asked. Texts alone may be read without torch; for everything else there is the model. Letters: Q tokens, E width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from unifashion_pl.gallery.segments import Floats
from unifashion_pl.inference.text_encoder import TextEncoder

if TYPE_CHECKING:
    from unifashion_pl.gallery.model_queries import ModelQueries
    from unifashion_pl.interface import FashionModel


class QueryEncoder:
    """A model that is loaded when something is asked that needs it.

    Args:
        load: gives the model.
        texts: its text side, if that can be had by itself.
    """

    def __init__(self, load: Callable[[], FashionModel], texts: TextEncoder | None = None) -> None:
        self._load, self._texts = load, texts

    @cached_property
    def whole(self) -> ModelQueries:
        """What the whole model answers."""
        from unifashion_pl.gallery.model_queries import ModelQueries

        return ModelQueries(self._load())

    @property
    def _side(self) -> TextEncoder | ModelQueries:
        return self.whole if self._texts is None else self._texts

    @property
    def fingerprint(self) -> str:
        """See :func:`unifashion_pl.inference.encode.fingerprint`."""
        return self._side.fingerprint

    @property
    def width(self) -> int:
        """E."""
        return self._side.width

    @property
    def tokens(self) -> int:
        """Q."""
        return self._side.num_queries

    def texts(self, texts: Sequence[str]) -> list[Floats]:
        """A vector (E,) of each text; refuses those of which the model can read nothing."""
        return self._side.texts(texts)
