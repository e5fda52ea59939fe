"""Decoders of six families behind the caption head: their loss, their gradients, LoRA's layers, and captions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unifashion_pl.tasks.caption import CaptionModule
from unifashion_pl.tasks.language_model import LanguageModel, LoraSettings

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
#: Family -> settings of its own, and the linear layers of a block.
FAMILIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "llama": ({}, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    "qwen2": ({}, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    "gemma": ({"head_dim": 8}, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    "gpt_neox": ({}, {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    "phi": ({}, {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}),
    "opt": ({"ffn_dim": 64, "word_embed_proj_dim": 32}, {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}),
}


def head(family: str, **kwargs: Any) -> CaptionModule:
    torch.manual_seed(0)
    config = {**SIZES, **FAMILIES[family][0], "model_type": family}
    decoder = LanguageModel(config=config, **kwargs)
    return CaptionModule(language_model=decoder, query_width=16)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_is_found_trains_and_reaches_the_queries(family: str) -> None:
    module = head(family, lora=LoraSettings(rank=2, alpha=4, dropout=0.0))
    q = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    module.caption_loss(q, ["fashiongen", "fashion200k"], ["a red dress", "blue"]).backward()
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in module.named_parameters() if ".lora_A." in name}
    assert adapted == FAMILIES[family][1]
    trained = [name for name, p in module.named_parameters() if "lora_B" in name]
    assert len(trained) == 2 * len(adapted)
    state = dict(module.named_parameters())
    assert all(state[name].grad is not None and state[name].grad.any() for name in trained)  # type: ignore[union-attr]
    assert q.grad is not None
    assert q.grad.flatten(1).any(1).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_two_captions_are_learned_and_said_whatever_stands_beside_them(family: str) -> None:
    module = head(family)
    q = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))
    captions = ["a red dress.", "two blue trousers"]
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        loss = module.caption_loss(q, ["fashiongen"] * 2, captions)
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.1
    module.eval()
    asked = {"max_new_tokens": 24, "num_beams": 2, "repetition_penalty": 1.0}
    assert module.generate(q, ["fashiongen"] * 2, **asked) == captions
    assert module.generate(q[1:], ["fashiongen"], **asked) == captions[1:]
