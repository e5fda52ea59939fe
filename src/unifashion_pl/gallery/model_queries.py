"""What a search asks the whole model: vectors of texts, images and both, the matching head, where a token looked. Letters: Q tokens, E width."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from unifashion_pl.arguments import Images, OneImage, text_list
from unifashion_pl.gallery.heat import heat_map
from unifashion_pl.gallery.scan import as_array
from unifashion_pl.gallery.segments import Floats
from unifashion_pl.inference.encode import compose, encode_image, encode_text, fingerprint
from unifashion_pl.inference.images import image_list
from unifashion_pl.inference.requests import head_of, in_batches, pixels_for, rows_of
from unifashion_pl.interface import FashionModel

#: Pictures that the matching head looks at together.
MATCHED = 16


class ModelQueries:
    """A model with a retrieval head.

    Attributes:
        num_queries: Q.
    """

    def __init__(self, model: FashionModel) -> None:
        self.model, self.num_queries = model, int(model.backbone.num_queries)

    @property
    def _head(self) -> Any:
        return head_of(self.model, "retrieval")

    @cached_property
    def fingerprint(self) -> str:
        """See :func:`unifashion_pl.inference.encode.fingerprint`."""
        return fingerprint(self.model)

    @property
    def width(self) -> int:
        """E."""
        return int(self._head.text_proj.out_features)

    def texts(self, texts: Sequence[str]) -> list[Floats]:
        """A vector (E,) of each text; refuses those of which the model can read nothing."""
        return [as_array(one) for one in encode_text(self.model, texts, strict=True)]

    def images(self, images: Images) -> list[Floats]:
        """Vectors (Q, E) of each image, of the reference queries."""
        return [as_array(one) for one in encode_image(self.model, images)]

    def composed(self, images: Images, texts: Sequence[str]) -> list[Floats]:
        """A vector (E,) of each pair of an image and a text; one of a kind goes with all of the other."""
        pairs = rows_of({"texts": text_list(texts), "images": image_list(images)})
        found = compose(self.model, [pair["images"] for pair in pairs], [pair["texts"] for pair in pairs])
        return [as_array(one) for one in found]

    def matches(self, pictures: Sequence[str], text: str, within: str) -> list[float]:
        """The matching head's probability that each picture and a text belong together."""
        backbone = self.model.backbone

        def work(part: list[str]) -> list[float]:
            features = backbone.image_features(pixels_for(self.model, part))
            logits = self._head.match(backbone, features, backbone.tokenize([text] * len(part)), within)
            chances: list[float] = torch.softmax(logits.float(), -1)[:, 1].tolist()
            return chances

        return [chance for part in in_batches(self.model, pictures, MATCHED, work, "matching") for chance in part]

    def heat_map(self, picture: OneImage, vector: Floats, within: str, token: int) -> Floats:
        """See :func:`unifashion_pl.gallery.heat.heat_map`."""
        return heat_map(self.model, picture, vector, within, token)
