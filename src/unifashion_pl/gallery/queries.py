"""Vectors of what is asked. Texts alone may be read without torch; for everything else there is the model. Letters: Q tokens, E width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from unifashion_pl.gallery.scan import as_array
from unifashion_pl.gallery.segments import Floats

if TYPE_CHECKING:
    from unifashion_pl.inference.images import Images
    from unifashion_pl.inference.text_encoder import TextEncoder
    from unifashion_pl.interface import FashionModel

#: Pictures that the matching head looks at together.
MATCHED = 16


class QueryEncoder:
    """A model that is loaded when something is asked that needs it.

    Args:
        load: gives the model.
        texts: its text side, if that can be had by itself.
    """

    def __init__(self, load: Callable[[], FashionModel], texts: TextEncoder | None = None) -> None:
        self._load, self._texts = load, texts

    @cached_property
    def model(self) -> FashionModel:
        """The whole model."""
        return self._load()

    @cached_property
    def _head(self) -> Any:
        from unifashion_pl.inference.requests import head_of

        return head_of(self.model, "retrieval")

    @cached_property
    def fingerprint(self) -> str:
        """See :func:`unifashion_pl.inference.encode.fingerprint`."""
        if self._texts is not None:
            return self._texts.fingerprint
        from unifashion_pl.inference.encode import fingerprint

        return fingerprint(self.model)

    @property
    def width(self) -> int:
        """E."""
        return self._texts.width if self._texts is not None else int(self._head.text_proj.out_features)

    @property
    def tokens(self) -> int:
        """Q."""
        return self._texts.num_queries if self._texts is not None else int(self.model.backbone.num_queries)

    def texts(self, texts: Sequence[str]) -> list[Floats]:
        """A vector (E,) of each text; refuses those of which the model can read nothing."""
        if self._texts is not None:
            return self._texts.texts(texts)
        from unifashion_pl.inference.encode import encode_text

        return [as_array(one) for one in encode_text(self.model, texts, strict=True)]

    def images(self, images: Images) -> list[Floats]:
        """Vectors (Q, E) of each image, of the reference queries."""
        from unifashion_pl.inference.encode import encode_image

        return [as_array(one) for one in encode_image(self.model, images)]

    def composed(self, images: Images, texts: Sequence[str]) -> list[Floats]:
        """A vector (E,) of each pair of an image and a text; one of a kind goes with all of the other."""
        from unifashion_pl.arguments import text_list
        from unifashion_pl.inference.encode import compose
        from unifashion_pl.inference.images import image_list
        from unifashion_pl.inference.requests import rows_of

        pairs = rows_of({"texts": text_list(texts), "images": image_list(images)})
        found = compose(self.model, [pair["images"] for pair in pairs], [pair["texts"] for pair in pairs])
        return [as_array(one) for one in found]

    def matches(self, pictures: Sequence[str], text: str, within: str) -> list[float]:
        """The matching head's probability that each picture and a text belong together."""
        import torch

        from unifashion_pl.inference.requests import pixels_for
        from unifashion_pl.tasks.eval_mode import evaluating

        backbone = self.model.backbone
        chances: list[float] = []
        with evaluating(self.model), torch.no_grad():
            for start in range(0, len(pictures), MATCHED):
                part = list(pictures[start : start + MATCHED])
                features = backbone.image_features(pixels_for(self.model, part))
                logits = self._head.match(backbone, features, backbone.tokenize([text] * len(part)), within)
                chances += torch.softmax(logits.float(), -1)[:, 1].tolist()
        return chances

    def heat_map(self, picture: Any, vector: Floats, within: str, token: int) -> Floats:
        """See :func:`unifashion_pl.gallery.heat.heat_map`."""
        from unifashion_pl.gallery.heat import heat_map

        return np.asarray(heat_map(self.model, picture, vector, within, token))
