"""What a search asks the whole model: vectors of texts, images and both, the matching head, where a token looked. Letters: Q tokens, E width, S the tower's side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from unifashion_pl.arguments import Images, OneImage, rows_of, text_list
from unifashion_pl.backbone.qformer import QuerySet
from unifashion_pl.backbone.words import Reads
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.gallery.scan import as_array
from unifashion_pl.gallery.segments import Floats
from unifashion_pl.inference.encode import (
    appearance_fingerprint,
    compose,
    encode_image,
    encode_image_sets,
    encode_text,
    fingerprint,
)
from unifashion_pl.inference.images import image_list, open_image
from unifashion_pl.inference.requests import head_of, in_batches, pixels_for
from unifashion_pl.interface import FashionModel
from unifashion_pl.tasks.eval_mode import evaluating

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
    def reader(self) -> Reads:
        """Who reads texts, see :func:`unifashion_pl.backbone.words.readable`."""
        return self.model.backbone

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

    def pixels(self, image: OneImage) -> NDArray[np.uint8]:
        """(S, S, 3) what the tower sees of a picture; asked with these pixels instead of the picture, the model answers the same."""
        square = EncoderTransform(self.model.backbone.vision.image_size)(open_image(image))
        return np.ascontiguousarray(square.permute(1, 2, 0).numpy())

    def looked_at(self, images: Images) -> list[tuple[Floats, Floats]]:
        """Of each image :meth:`images` and its appearance (1, K), by one pass of the tower."""
        found = encode_image_sets(self.model, image_list(images), ("reference",), appearance=True)
        return [(as_array(one), as_array(look)) for one, look in zip(found["reference"], found["appearance"])]

    @property
    def appearance(self) -> tuple[str, float, float] | None:
        """Fingerprint of the model's appearance vectors, their weight beside query tokens and their reach; None = it has none."""
        own = self.model.backbone.appearance
        return None if own is None else (str(appearance_fingerprint(self.model)), float(own.weight), float(own.reach))

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
        """(side, side) in 0..1: how much each place of a picture raised a query token's product with a vector.

        Gradient times input of the tower's tokens, summed over their width, as Grad-CAM does for feature maps; what lowered it is 0. A
        first token that stands for the whole picture (CLS) has no place and is left out.

        Args:
            vector: (E,), of the request. within: ``reference`` or ``target``. token: as a hit names it.

        Raises:
            ValueError: a tower whose tokens lie on no square grid.
        """
        head, backbone = self._head, self.model.backbone
        with evaluating(self.model), torch.no_grad():
            features = backbone.image_features(pixels_for(self.model, [picture]))
        with evaluating(self.model), torch.enable_grad():
            seen = features.detach().requires_grad_()
            tokens = head.image_vectors(backbone, seen, cast(QuerySet, within))
            score = tokens[0, token] @ torch.as_tensor(vector, dtype=tokens.dtype, device=tokens.device)
            (slope,) = torch.autograd.grad(score, seen)
        heat = (slope * seen).detach().sum(-1)[0].clamp(min=0).float().cpu().numpy()
        side = math.isqrt(len(heat))
        if side * side != len(heat) and side * side + 1 != len(heat):
            raise ValueError(f"the tower gives {len(heat)} tokens, which are no square grid: there is no map of them")
        square = heat[-side * side :].reshape(side, side)
        return np.asarray(square / max(float(square.max()), 1e-12), np.float32)
