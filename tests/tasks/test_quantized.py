"""A decoder in four or eight bits: what it computes, what trains on it, what checkpoints of it hold, and where it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import images, pair_batch, small_backbone, tiny
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from unifashion_pl import UniFashionModule
from unifashion_pl.sharding import shard
from unifashion_pl.tasks.caption import CaptionModule
from unifashion_pl.tasks.language_model import LanguageModel, LoraSettings, load_llm_tokenizer
from unifashion_pl.tasks.quantized import quantized_layers

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (the extra quantized)")
KINDS = ["nf4", "int8"]
#: Largest relative error of logits: of blocks of 64 in four bits, of rows in eight.
ERROR = {"nf4": 0.25, "int8": 0.05}
IDS = torch.tensor([[1, 5, 9, 12, 3]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with spread-out weights and the shipped tokenizer."""
    place = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    tokenizer = load_llm_tokenizer("tiny")
    tokenizer.save_pretrained(place)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=len(tokenizer), initializer_range=0.1)).save_pretrained(place)
    return place


@torch.no_grad()
def logits(model: LanguageModel) -> Tensor:
    return model.eval().logits(model.embed(IDS), torch.ones(1, 5, dtype=torch.long), 5)


def caption_module(folder: Path, kind: str, **kwargs: Any) -> CaptionModule:
    torch.manual_seed(1)
    lora = LoraSettings(rank=4, alpha=8, dropout=0.0)
    decoder = LanguageModel(str(folder), lora=lora, quantize=kind)  # type: ignore[arg-type]
    return CaptionModule(language_model=decoder, query_width=32, **kwargs)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_nearly_the_same_function_in_fewer_bytes(folder: Path, kind: str) -> None:
    whole, small = LanguageModel(str(folder)), LanguageModel(str(folder), quantize=kind)  # type: ignore[arg-type]
    expected, found = logits(whole), logits(small)
    error = float((found - expected).norm() / expected.norm())
    assert 0 < error < ERROR[kind]
    assert len(quantized_layers(small)) == 2 * 7
    assert small.model.get_output_embeddings().weight.dtype == torch.float32

    def size(model: LanguageModel) -> int:
        return sum(p.numel() * p.element_size() for n, p in model.named_parameters() if "proj" in n)

    assert size(whole) / size(small) == (8 if kind == "nf4" else 4)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_and_queries_get_the_gradients_of_the_weights_that_are_there(folder: Path, kind: str) -> None:
    module = caption_module(folder, kind)
    q = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()
    module.caption_loss(q, ["fashiongen"] * 2, ["red dress", "blue shirt"]).backward()
    got = {name for name, p in module.named_parameters() if p.grad is not None}
    assert got == {name for name, p in module.named_parameters() if "lora_" in name or name.startswith("adapter")}
    whole = LanguageModel(str(folder), lora=LoraSettings(rank=4, alpha=8, dropout=0.0))
    state = dict(module.language_model.named_parameters())
    for name, p in whole.named_parameters():
        if "lora_" in name:
            p.data.copy_(state[name].data)
    other = q.detach().clone().requires_grad_()
    plain = CaptionModule(language_model=whole, query_width=32)
    plain.adapter.load_state_dict(module.adapter.state_dict())
    plain.caption_loss(other, ["fashiongen"] * 2, ["red dress", "blue shirt"]).backward()
    assert q.grad is not None
    assert other.grad is not None
    assert float(torch.cosine_similarity(q.grad.flatten(), other.grad.flatten(), 0)) > (0.9 if kind == "nf4" else 0.99)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_hold_the_adapters_alone_and_bring_the_function_back(folder: Path, tmp_path: Path, kind: str) -> None:
    def build() -> UniFashionModule:
        return UniFashionModule(small_backbone(), caption=caption_module(folder, kind), policy="phase1_llm", leave_out=["llm"])

    model = build()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.add_(0.1)
    state = model.state_dict()
    assert not any("base_layer" in name for name in state)
    checkpoint: dict[str, Any] = {"state_dict": dict(state)}
    model.on_save_checkpoint(checkpoint)
    held = [name for name in checkpoint["state_dict"] if "language_model" in name]
    assert held
    assert all("lora_" in name for name in held)
    again = build()
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])
    batch = pair_batch(2)
    expected, found = (m.eval().compute_losses(batch)["itg"] for m in (model, again))
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    del checkpoint["state_dict"][held[0]]
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict(checkpoint["state_dict"])


def test_a_saved_model_reads_its_base_from_the_source_again(folder: Path, tmp_path: Path) -> None:
    llm = {"source": str(folder), "config": None, "quantize": "nf4", "lora": {"rank": 2, "alpha": 4, "dropout": 0.0}}
    model = tiny(
        **{
            "diffusion": "null",
            "policy": "phase1_llm",
            "also_train": ["vision"],
            "leave_out": ["llm"],
            **{f"caption.init_args.language_model.init_args.{name}": value for name, value in llm.items()},
        }
    )
    model.save_pretrained(tmp_path / "saved")
    again = UniFashionModule.from_pretrained(tmp_path / "saved")
    assert again.caption_head is not None
    assert len(quantized_layers(again.caption_head.language_model)) == 2 * 7
    batch = pair_batch(2, images=images(2, 64))
    expected, found = (m.eval().compute_losses(batch)["itg"] for m in (model, again))
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)


def test_generation_merges_nothing_into_it(folder: Path) -> None:
    module = caption_module(folder, "nf4")
    with module.language_model.merged():
        assert not any(getattr(m, "merged_adapters", []) for m in module.modules())
    assert len(module.generate(torch.randn(2, 4, 32), ["fashiongen"] * 2, max_new_tokens=4)) == 2


def test_what_cannot_work_is_refused_in_a_sentence(folder: Path) -> None:
    with pytest.raises(ValueError, match="known are nf4, int8"):
        LanguageModel(str(folder), quantize="int3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name a source without a config"):
        LanguageModel(config={"hidden_size": 32}, quantize="nf4")
    with pytest.raises(ValueError, match="add llm to leave_out"):
        UniFashionModule(small_backbone(), caption=caption_module(folder, "nf4"), policy="phase1_llm")
    with pytest.raises(ValueError, match="take llm out of also_train"):
        UniFashionModule(
            small_backbone(), caption=caption_module(folder, "nf4"), policy="phase1_llm", leave_out=["llm"], also_train=["llm"]
        )
    with pytest.raises(ValueError, match="FSDP2 shards no such weights"):
        shard(caption_module(folder, "nf4"), None)  # type: ignore[arg-type]
