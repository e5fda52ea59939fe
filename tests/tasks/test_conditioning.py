"""Parts of the U-Net's context: adapters against the released form, the null token's start, a text encoder that fits."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.deprecated.blip_diffusion.modeling_blip2 import ProjLayer
from small import CLIP_TEXT
from torch import Tensor, nn

from unifashion_pl.generation import PromptEncoder
from unifashion_pl.tasks.conditioning import ResidualMLP, build_adapter, checked_text_encoder, null_token


def queries() -> Tensor:
    return torch.randn(4, 5, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(config=CLIP_TEXT).eval()


def test_adapters_have_the_published_numbers_of_parameters_and_the_released_form() -> None:
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in m.parameters()) for m in (nn.Linear(768, 768), ResidualMLP(768))]
    assert sizes == [590_592, 4_723_968]
    torch.manual_seed(0)
    ours, theirs = ResidualMLP(24).eval(), ProjLayer(24, 24, 96).eval()
    theirs.load_state_dict({name.replace("norm.", "LayerNorm."): tensor for name, tensor in ours.state_dict().items()})
    torch.testing.assert_close(ours(queries()), theirs(queries()), atol=1e-6, rtol=0)


def test_an_adapter_leads_from_the_queries_to_the_context() -> None:
    linear = build_adapter("linear", 32, 24)
    assert isinstance(linear, nn.Linear)
    assert linear(torch.zeros(2, 5, 32)).shape == (2, 5, 24)
    assert isinstance(build_adapter("residual_mlp", 24, 24), ResidualMLP)
    with pytest.raises(ValueError, match="equal widths, got queries 32 and context 24: use linear"):
        build_adapter("residual_mlp", 32, 24)
    with pytest.raises(ValueError, match="unknown adapter 'mlp'; known are linear, residual_mlp"):
        build_adapter("mlp", 24, 24)


def test_a_residual_adapter_whose_last_layer_is_zero_passes_the_queries_on() -> None:
    adapter = ResidualMLP(24)
    nn.init.zeros_(adapter.dense2.weight)
    nn.init.zeros_(adapter.dense2.bias)
    assert torch.equal(adapter(queries()), queries())


def test_the_null_token_starts_at_random_or_as_the_empty_prompt_s_mean(encoder: PromptEncoder) -> None:
    with torch.no_grad():
        tokens = encoder([""])[0]
    start = null_token("empty_prompt", 24, encoder)
    torch.testing.assert_close(start, torch.stack(list(tokens)).double().mean(0).float()[None, None], atol=1e-6, rtol=0)
    assert not start.requires_grad
    torch.manual_seed(3)
    drawn = null_token("random", 10_000, None)
    assert drawn.shape == (1, 1, 10_000)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.04)
    assert float(drawn.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", ["empty_prompt", "zeros"])
def test_a_start_that_cannot_be_made_is_named(kind: str) -> None:
    with pytest.raises(
        ValueError, match=f"null_start is '{kind}', expected random, or empty_prompt where the context reads text"
    ):
        null_token(kind, 24, None)


def test_a_text_encoder_is_there_and_as_wide_as_the_context(encoder: PromptEncoder) -> None:
    assert checked_text_encoder(encoder, 24) is encoder
    with pytest.raises(ValueError, match="pass text_encoder=…, or choose context='tsa'"):
        checked_text_encoder(None, 24)
    with pytest.raises(ValueError, match="text encoder is 24 wide, the U-Net's cross_attention_dim is 768: make them equal"):
        checked_text_encoder(encoder, 768)
