"""Attention masks: who receives a gradient from whom through the whole Q-Former, padding, rows without anything to see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small import TEXTS, images
from torch import Tensor

from unifashion_pl.backbone import QFormerBackbone, TextTokens
from unifashion_pl.backbone.masks import MaskMode, additive_mask, visibility

MODES: tuple[MaskMode, ...] = ("unimodal", "causal", "bidirectional")


def reach(backbone: QFormerBackbone, tokens: TextTokens, mode: MaskMode) -> list[str]:
    """Rows of 0 and 1 over [queries | text]: does the output at i have a gradient to the input embedding at j?"""
    inputs: list[Tensor] = []
    hook = backbone.qformer.register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
    queries, text = backbone.joint_pass(backbone.image_features(images(1)), tokens, mode=mode)
    hook.remove()
    outputs = torch.cat([queries, text], 1)[0]
    direction = torch.randn(outputs.shape[1], generator=torch.Generator().manual_seed(0))
    grads = [torch.autograd.grad(row @ direction, inputs[0], retain_graph=True)[0][0] for row in outputs]
    return ["".join(str(int(g.abs().max() > 0)) for g in grad) for grad in grads]


def test_gradients_flow_exactly_where_each_mask_lets_them(backbone: QFormerBackbone) -> None:
    tokens = backbone.tokenize(["red skirt"])
    tokens = TextTokens(F.pad(tokens.ids, (0, 1)), F.pad(tokens.mask, (0, 1)))
    assert tokens.mask[0].tolist() == [True, True, True, True, False]
    queries = ["111100000"] * 4
    expected = {
        "unimodal": [*queries, *["000011110"] * 4],
        "causal": [*queries, "111110000", "111111000", "111111100", "111111110"],
        "bidirectional": ["111111110"] * 8,
    }
    for mode in MODES:
        rows = reach(backbone, tokens, mode)
        assert rows[:8] == expected[mode], mode
        assert rows[8][-1] == "1"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hidden_positions_get_no_weight_in_any_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    seen = visibility(2, torch.tensor([[True, True, False], [True, False, False]]), "causal")
    mask = additive_mask(seen, dtype)
    assert mask.shape == (2, 1, 5, 5)
    assert mask.dtype == dtype
    assert torch.isfinite(mask).all()
    scores = (5 * torch.randn(2, 1, 5, 5)).to(dtype)
    weights = (scores + mask).float().softmax(-1)
    exact = torch.where(seen[:, None], scores.float().exp(), 0)
    torch.testing.assert_close(weights, exact / exact.sum(-1, keepdim=True), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_a_text_of_padding_alone_gives_numbers_and_disturbs_no_other(backbone: QFormerBackbone, mode: MaskMode) -> None:
    features, tokens = backbone.image_features(images(2)), backbone.tokenize(TEXTS[:2])
    empty = TextTokens(tokens.ids, tokens.mask.clone())
    empty.mask[1] = False
    full, partly = backbone.joint_pass(features, tokens, mode=mode), backbone.joint_pass(features, empty, mode=mode)
    for a, b in zip(full, partly):
        torch.testing.assert_close(a[0], b[0], atol=2e-6, rtol=0)
        assert torch.isfinite(b).all()
    assert torch.isfinite(backbone.text_pass(empty)).all()
    (partly[0].square().mean() + partly[1].square().mean()).backward()
    for parameter in (backbone.query_tokens, backbone.embeddings.word_embeddings.weight):
        assert torch.isfinite(parameter.grad).all()  # type: ignore[arg-type]


def test_a_text_of_padding_alone_leaves_the_queries_as_without_text(backbone: QFormerBackbone) -> None:
    features, tokens = backbone.image_features(images(2)), backbone.tokenize(TEXTS[:2])
    nothing = TextTokens(tokens.ids, torch.zeros_like(tokens.mask))
    torch.testing.assert_close(backbone.fused_pass(features, nothing)[0], backbone.image_pass(features), atol=2e-6, rtol=0)
