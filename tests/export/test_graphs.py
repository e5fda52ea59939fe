"""What is exported, and what is refused in a sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import images, small_backbone

from unifashion_pl.export.graphs import ComposePart, ImagePart, TextPart, check_exportable, chosen_parts, prepared, traced
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks import RetrievalModule


@pytest.fixture
def model() -> UniFashionModule:
    torch.manual_seed(0)
    backbone = small_backbone(num_layers=1, cross_attention_frequency=1)
    return UniFashionModule(backbone, RetrievalModule(hidden_size=32, embed_dim=16)).eval()


def test_parts_are_those_that_the_model_has_learned(model: UniFashionModule) -> None:
    assert chosen_parts(model, None) == (["image", "text", "compose"], {})  # nobody knows what it has learned
    model.learned = frozenset({"retrieval"})
    parts, left = chosen_parts(model, None)
    assert parts == ["image", "text"]
    assert "has not learned to search by an image and a text together" in left["compose"]
    assert chosen_parts(model, ["text"]) == (["text"], {"image": "it was not asked for when the model was exported", **left})
    with pytest.raises(RuntimeError, match="has not learned to search by an image and a text"):
        chosen_parts(model, ["compose"])
    with pytest.raises(ValueError, match="part"):
        chosen_parts(model, ["picture"])
    with pytest.raises(ValueError, match="no part is named"):
        chosen_parts(model, [])
    with pytest.raises(RuntimeError, match="has no retrieval head"):
        chosen_parts(UniFashionModule(model.backbone), None)


def test_parts_compute_what_the_heads_do(model: UniFashionModule) -> None:
    head, backbone = model.retrieval_head, model.backbone
    assert head is not None
    pixels, texts = images(3), ["red", "a long blue dress", "x"]
    tokens = backbone.tokenize(texts)
    given = tokens.ids, tokens.mask.long()
    with torch.no_grad():
        for name, found in zip(("reference", "target"), ImagePart(model)(pixels)):
            assert torch.equal(found, head.image_embeddings(backbone, pixels, name))  # type: ignore[arg-type]
        assert torch.equal(TextPart(model)(*given)[0], head.text_embeddings(backbone, texts))
        assert torch.equal(ComposePart(model)(pixels, *given)[0], head.compose(backbone, pixels, texts))


def test_a_copy_of_other_bits_leaves_the_model_as_it_is(model: UniFashionModule) -> None:
    assert prepared(model, "fp32") is model
    half = prepared(model, "fp16")
    assert {p.dtype for p in half.backbone.parameters()} == {torch.float16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(half.backbone.vision.mean, model.backbone.vision.mean)
    model.backbone.vision.to(torch.bfloat16)
    assert {p.dtype for p in prepared(model, "int8").backbone.parameters()} == {torch.float32}


def test_what_cannot_be_traced_is_said(model: UniFashionModule, monkeypatch: pytest.MonkeyPatch) -> None:
    def asks(self: Any, tokens: Any) -> Any:
        return tokens.ids.float()[:, :1] if float(tokens.ids.sum()) > 0 else tokens.ids

    monkeypatch.setattr(type(model.backbone), "text_pass", asks)
    with pytest.raises(RuntimeError, match="the part text cannot be exported: torch.export says"):
        traced(model, "text")
    with pytest.raises(RuntimeError, match="without numbers of its own"):
        check_exportable(model.to("meta"))
