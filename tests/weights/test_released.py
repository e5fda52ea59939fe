"""Checkpoints of UniFashion's and SPRC's code: every tensor finds its place in a whole model, or is dropped with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from torch import Tensor

from unifashion_pl.generation import Denoiser, ImageVAE
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks import CaptionModule, DiffusionModule
from unifashion_pl.tasks.language_model import LanguageModel, LoraSettings, load_llm_tokenizer
from unifashion_pl.weights.importing import import_weights
from unifashion_pl.weights.loading import load_imported

VOCAB = len(load_llm_tokenizer("tiny"))


def language_model() -> LanguageModel:
    config = {k: v for k, v in peers.llama_config(VOCAB).items() if k != "vocab_size"}
    return LanguageModel("tiny", config=config, lora=LoraSettings(rank=4, alpha=8))


def whole_model() -> UniFashionModule:
    unet = {**peers.UNET, "cross_attention_dim": peers.HIDDEN}
    diffusion = DiffusionModule(
        denoiser=Denoiser(config=unet), vae=ImageVAE(config=peers.VAE), query_width=peers.HIDDEN, adapter="residual_mlp", context="tsa",
        size=(64, 64),
    )  # fmt: skip
    caption = CaptionModule(language_model=language_model(), query_width=peers.HIDDEN)
    return peers.our_model(caption=caption, diffusion=diffusion)


def old_peft(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names before peft 0.6, when a layer with LoRA was a Linear itself; with the constants that transformers 4.28 stored."""
    out = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
    return {**out, "base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(4)}


@pytest.mark.parametrize("names", ["today", "old"])
def test_a_full_checkpoint_fills_heads_adapters_and_lora(tmp_path: Path, names: str) -> None:
    llm = peers.randomise(language_model(), 9).model.state_dict()
    state = peers.unifashion_full(peers.blip2().state_dict(), llm if names == "today" else old_peft(llm))
    torch.save({"epoch": 7, "Blip2QformerCirFull": state}, tmp_path / "tuned_clip_best.pt")
    report = import_weights(tmp_path / "tuned_clip_best.pt", tmp_path / "out")
    assert report.kind == "unifashion"
    assert report.licence == "none stated"
    assert {e.sources[0] for e in report.entries if e.action == "dropped" and "never used" in e.reason} == {
        "query_proj.weight",
        "caption_proj.bias",
        "llm_query_tokens",
        "ctx_embeddings_cache",
    }
    assert any("q_R" in note for note in report.notes)
    model = whole_model()
    unet = {n: t.clone() for n, t in model.diffusion_head.denoiser.state_dict().items()}  # type: ignore[union-attr]
    loaded = load_imported(model, tmp_path / "out")
    own = model.state_dict()
    assert torch.equal(own["backbone.target_query_tokens"], state["prompt_tokens"])
    assert torch.equal(own["backbone.query_tokens"], state["query_tokens"])
    assert torch.equal(own["caption_head.adapter.weight"], state["llm_proj.weight"])
    assert torch.equal(own["diffusion_head.adapter.dense2.weight"], state["proj_layer.dense2.weight"])
    prefix = "caption_head.language_model.model."
    assert all(torch.equal(own[f"{prefix}{name}"], tensor) for name, tensor in llm.items())
    assert all(torch.equal(model.diffusion_head.denoiser.state_dict()[n], t) for n, t in unet.items())  # type: ignore[union-attr]
    assert {"diffusion_head.denoiser.unet", "diffusion_head.vae", "retrieval_head.lm_head"} <= loaded.absent.keys()


def test_the_residual_adapter_computes_what_the_released_class_does(tmp_path: Path) -> None:
    state = peers.unifashion_full(peers.blip2().state_dict(), {})
    torch.save({"epoch": 1, "Blip2QformerCirFull": state}, tmp_path / "x.pt")
    import_weights(tmp_path / "x.pt", tmp_path / "out")
    model = whole_model()
    load_imported(model, tmp_path / "out")
    x = torch.randn(2, peers.QUERIES, peers.HIDDEN)
    part = {n.removeprefix("proj_layer."): t for n, t in state.items() if n.startswith("proj_layer.")}
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-12).sqrt()
    hidden = (normed * part["LayerNorm.weight"] + part["LayerNorm.bias"]) @ part["dense1.weight"].T + part["dense1.bias"]
    expected = (hidden * torch.sigmoid(1.702 * hidden)) @ part["dense2.weight"].T + part["dense2.bias"] + x
    adapter: Any = model.diffusion_head.adapter  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(adapter.eval()(x), expected, atol=1e-3, rtol=1e-4)


def test_sprc_keeps_its_gallerys_queries_and_drops_the_aligning_ones(tmp_path: Path) -> None:
    state = peers.to_lavis(peers.blip2().state_dict()) | {"prompt_tokens": torch.randn(1, peers.QUERIES, peers.HIDDEN)}
    torch.save({"epoch": 3, "Blip2QformerCirAlignPrompt": state}, tmp_path / "sprc.pt")
    report = import_weights(tmp_path / "sprc.pt", tmp_path / "out")
    assert report.kind == "sprc"
    assert any("two passes" in note for note in report.notes)
    model = peers.our_model()
    load_imported(model, tmp_path / "out")
    assert torch.equal(model.backbone.target_query_tokens, state["query_tokens"])


def test_half_an_adapter_and_half_a_language_model_are_refused(tmp_path: Path) -> None:
    llm = peers.randomise(language_model(), 9).model.state_dict()
    whole = peers.unifashion_full(peers.blip2().state_dict(), llm)
    for lost, match in (
        ("llm_proj.bias", "half an adapter: caption_head.adapter"),
        ("proj_layer.dense2.bias", "half an adapter: diffusion_head.adapter"),
        ("llm_model.base_model.model.model.layers.1.mlp.up_proj.lora_B.default.weight", "1 tensors missing"),
        ("llm_model.base_model.model.model.embed_tokens.weight", "half a language model"),
    ):
        torch.save({"epoch": 1, "Blip2QformerCirFull": {n: t for n, t in whole.items() if n != lost}}, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=match):
            import_weights(tmp_path / "x.pt", tmp_path / "out")
        assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]
