"""Captions: one an image, made from its own queries, in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from unifashion_pl import inference
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.module import UniFashionModule


def test_captions_pass_style_and_settings(model: UniFashionModule, files: list[Path]) -> None:
    texts = model.caption(files, style="fashioniq", num_beams=3)
    assert len(texts) == 5
    assert all(t.startswith("fashioniq ") and t.endswith("['num_beams']") for t in texts)
    assert len(set(texts)) == 5


def test_a_missing_head_is_named(model: UniFashionModule, files: list[Path]) -> None:
    model.caption_head = None
    with pytest.raises(RuntimeError, match=r"no caption head, so it cannot make captions \(it has: retrieval, diffusion\)"):
        model.caption(files)


def test_every_caption_is_made_from_the_queries_of_its_image(model: UniFashionModule, files: list[Path]) -> None:
    """The caption head here writes down what it was given: the style, and the first number of the first query."""
    pixels = torch.stack([EncoderTransform(32)(Image.open(path)) for path in files])
    with torch.no_grad():
        queries = model.backbone.image_pass(model.backbone.image_features(pixels))
    for size in (1, 2, 8):
        texts = inference.caption(model, files, batch_size=size)
        assert [text.split()[0] for text in texts] == ["fashiongen"] * 5
        assert [float(text.split()[1]) for text in texts] == pytest.approx(queries[:, 0, 0].tolist(), abs=1e-5)


def test_a_model_that_never_learned_to_caption_is_refused(model: UniFashionModule, files: list[Path]) -> None:
    model.learned = frozenset({"retrieval"})
    with pytest.raises(RuntimeError, match="caption images"):
        model.caption(files)
    model.learned = frozenset({"retrieval", "caption"})
    assert len(model.caption(files[:2])) == 2
