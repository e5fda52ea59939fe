"""Vectors of what is asked. Texts alone, and whatever an exported model is asked, may be read without torch; for everything else there is the model.

Letters: Q tokens, E width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from unifashion_pl.inference.text_encoder import TextEncoder
from unifashion_pl.names import shorten

if TYPE_CHECKING:
    from unifashion_pl.gallery.model_queries import ModelQueries
    from unifashion_pl.inference.exported import ExportedModel
    from unifashion_pl.interface import FashionModel


class QueryEncoder:
    """A model that is loaded when something is asked that needs it.

    Args:
        load: gives the model.
        texts: its text side, if that can be had by itself.
        exported: an export of the model, which then answers all, and the model is not loaded.
    """

    def __init__(
        self, load: Callable[[], FashionModel], texts: TextEncoder | None = None, exported: ExportedModel | None = None
    ) -> None:
        self._load, self._texts, self._exported = load, texts, exported

    @cached_property
    def whole(self) -> ModelQueries | ExportedModel:
        """What the whole model answers."""
        if self._exported is not None:
            return self._exported
        from unifashion_pl.gallery.model_queries import ModelQueries

        return ModelQueries(self._load())

    @property
    def side(self) -> TextEncoder | ModelQueries | ExportedModel:
        """What reads texts, and knows the model's fingerprint, width E and number of tokens Q."""
        return self.whole if self._texts is None else self._texts

    @property
    def explains(self) -> bool:
        """Whether it can say where on a picture a token looked."""
        return self._exported is None

    def shape(self, pool: int | None) -> tuple[int, int]:
        """(tokens, width) of an image in an index that keeps ``pool`` tokens; None = all."""
        tokens = self.side.num_queries
        return min(pool or tokens, tokens), self.side.width

    def require(self, model: str, what: str, otherwise: str) -> None:
        """Refuse vectors of another model, which would mean nothing to this one.

        Args:
            model: fingerprint of the one that made them. what: where they are. otherwise: what can be done but loading that model.

        Raises:
            ValueError: they are.
        """
        if model != (own := self.side.fingerprint):
            raise ValueError(
                f"{what} was made by another model ({shorten(model, 16)}, this one is {own}): load that model, or {otherwise}"
            )
