"""The Q-Former's tokenizer."""

from __future__ import annotations

from unifashion_pl.backbone import QFormerBackbone


def test_training_may_have_texts_that_say_nothing(backbone: QFormerBackbone) -> None:
    assert backbone.tokenize(["", "красное", "red"]).ids.shape == (3, 3)
