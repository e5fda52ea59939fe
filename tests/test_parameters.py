"""The paper's and the commercial overlay on the meta device, against published counts and diffusers' and transformers' own models."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from unifashion_pl.freezing import part_of
from unifashion_pl.module import UniFashionModule
from unifashion_pl.parameters import RANDOM, counts, shapes_only, stage_table


@pytest.fixture(scope="module")
def paper() -> UniFashionModule:
    return shapes_only(["phase2.yaml", "paper.yaml"])


def test_the_papers_size_has_the_published_counts(paper: UniFashionModule) -> None:
    found = {part: sum(pair) for part, pair in counts(paper).items()}
    assert found["unet"] == 859_546_884  # 13 input channels
    assert found["lora"] == 319_815_680  # rank 128 on every linear layer of a 7B Llama
    assert found["tsa_llm"] == 3_149_824
    assert found["tsa_diffusion"] == 590_592 + 768
    assert found["vae"] == 83_653_863
    assert found["clip_text"] == 123_060_480
    # transformers merges q, k and v biases into one of 3 x 1408 per block, timm has no k bias
    assert found["vision"] + 39 * 1408 == 985_949_440
    with torch.device("meta"):
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
            )
        )
    assert found["llm"] == sum(p.numel() for p in llama.parameters())
    assert len(paper.backbone.vision.model.blocks) == 39  # type: ignore[arg-type]
    assert isinstance(paper.backbone.vision.model.norm, torch.nn.Identity)


def test_phase_2_of_the_paper_trains_the_qformer_side_alone(paper: UniFashionModule) -> None:
    parts = {part_of(name) for name, p in paper.named_parameters() if p.requires_grad}
    assert parts == {"encoder", "target_queries", "heads"}
    assert {p.dtype for p in paper.backbone.vision.parameters()} == {torch.bfloat16}
    assert next(paper.diffusion_head.vae.parameters()).dtype == torch.bfloat16  # type: ignore[union-attr]


def test_stages_of_phase_1_build_only_what_they_need() -> None:
    text = stage_table({"1 LLM": ("phase1.yaml", "paper.yaml", "paper-llm.yaml")})
    assert "| lora | 319,815,680 | T |" in text
    assert "| llm | 6,738,415,616 | . |" in text
    assert "unet" not in text
    assert "| trainable | | 322,965,504 |" in text


def test_the_commercial_overlay() -> None:
    found = {part: sum(pair) for part, pair in counts(shapes_only(["phase1.yaml", "commercial.yaml"])).items()}
    with torch.device("meta"):
        qwen = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=151936,
                hidden_size=1536,
                intermediate_size=8960,
                num_hidden_layers=28,
                num_attention_heads=12,
                num_key_value_heads=2,
                tie_word_embeddings=True,
            )
        )
    assert found["llm"] == sum(p.numel() for p in qwen.parameters()) == 1_543_714_304
    assert found["unet"] == 865_910_724 + 9 * 320 * 9  # Stable Diffusion 2's, widened to 13 channels
    assert found["clip_text"] == 340_387_840


def test_every_overlay_of_published_weights_has_its_random_counterpart() -> None:
    assert set(RANDOM) == {"paper.yaml", "commercial.yaml"}
