"""A small model with a retrieval head and pictures that it tells apart, for the tests of galleries."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small import images, small_backbone

from unifashion_pl.backbone.appearance import Appearance
from unifashion_pl.gallery import Hit
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule

N = 9
#: Of the small gallery of ``conftest.py``.
IDS = ["a", "b", "c"]


def make_model(seed: int = 0) -> UniFashionModule:
    torch.manual_seed(seed)
    # weights large enough that the outputs of an untrained model differ by more than rounding
    model = UniFashionModule(small_backbone(seed, initializer_range=0.3), RetrievalModule(hidden_size=32, embed_dim=8))
    with torch.no_grad():
        model.backbone.target_query_tokens.add_(torch.randn(1, 4, 32) * 0.5)
    return model.eval()


def pictures(n: int = N) -> torch.Tensor:
    """Coarse random patterns: unlike fine noise, an untrained tower tells them apart."""
    return F.interpolate(images(n, 2, seed=5).float(), size=(32, 32), mode="nearest").byte()


def same(one: list[Hit], two: list[Hit]) -> bool:
    """Equal but for the last bits, which depend on where tensors lie in memory, on how many are asked together and on the processor."""
    return [h.id for h in one] == [h.id for h in two] and [h.score for h in one] == pytest.approx(
        [h.score for h in two], abs=1e-5
    )


def with_appearance(model: UniFashionModule, weight: float = 2.0, reach: float = 0.2) -> UniFashionModule:
    """The model with an appearance of its pictures and darker ones."""
    seen = [Appearance.pooled(model.backbone.vision(one)).detach() for one in (pictures(), (pictures().float() * 0.7).byte())]
    made = Appearance(model.backbone.vision.width, 6)
    made.learn(seen[0], seen[1][None])
    made.weight.fill_(weight)
    made.reach.fill_(reach)
    model.backbone.appearance = made
    return model
