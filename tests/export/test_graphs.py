"""What is exported, and what is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import images, small_backbone

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.backbone.vision import VisionTower
from unifashion_pl.export.graphs import (
    ComposePart,
    ImagePart,
    TextPart,
    check_exportable,
    chosen_parts,
    outputs_of,
    prepared,
    traced,
)
from unifashion_pl.export.programs import write_program
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


@pytest.fixture
def staged() -> UniFashionModule:
    """A tower that gives the pixels and maps of two earlier stages beside the last one, as the small profile's."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channels": (8, 8, 16, 16), "stem_width": 8}
    tower = VisionTower("resnet10t", image_size=64, timm_kwargs=sizes, stages=(0, 1, 2))
    settings: dict[str, Any] = {"num_queries": 4, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64}
    backbone = QFormerBackbone(tower, num_layers=1, cross_attention_frequency=1, **settings)
    return UniFashionModule(backbone, RetrievalModule(hidden_size=32, embed_dim=16)).eval()


def test_maps_of_earlier_stages_are_traced(staged: UniFashionModule) -> None:
    graph = traced(staged, "image").module()
    for rows in (1, 5):
        pixels = images(rows, 64)
        with torch.no_grad():
            for found, wanted in zip(graph(pixels), ImagePart(staged)(pixels)):
                assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "most"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_maps_of_earlier_stages_in_onnx(staged: UniFashionModule, tmp_path: Path, dtype: Any, most: float) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    given = prepared(staged, dtype)
    write_program(traced(given, "image"), "image", tmp_path, "onnx", dtype, outputs_of(staged, "image"))
    session = runtime.InferenceSession(str(tmp_path / "image.onnx"))
    for rows in (1, 5):
        pixels = images(rows, 64)
        with torch.no_grad():
            wanted = ImagePart(staged)(pixels)
        for one, other in zip(session.run(None, {"images": pixels.numpy()}), wanted):
            assert np.abs(one - other.numpy()).max() < most
