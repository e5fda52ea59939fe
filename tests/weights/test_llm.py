"""Language model folders and LoRA: imported models write the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from unifashion_pl.tasks import CaptionModule
from unifashion_pl.tasks.language_model import LanguageModel, LoraSettings, load_llm_tokenizer
from unifashion_pl.weights.importing import import_weights
from unifashion_pl.weights.loading import load_imported

TOKENIZER = load_llm_tokenizer("tiny")
IDS = torch.tensor([[1, 5, 9, 12, 3]])


def llama(seed: int = 0) -> Any:
    ids = {f"{name}_token_id": getattr(TOKENIZER, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return peers.randomise(LlamaForCausalLM(LlamaConfig(**peers.llama_config(len(TOKENIZER)), **ids)), seed)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model.eval()(input_ids=IDS).logits


LLAVA = {
    "llava": lambda n: n,
    "llava-hf, transformers 4": lambda n: f"language_model.{n}",
    "llava-hf, transformers 5": lambda n: n.replace("model.", "model.language_model.") if n.startswith("model.") else n,
}


@pytest.mark.parametrize("names", LLAVA)
def test_llava_folders_leave_their_image_side_behind(tmp_path: Path, names: str) -> None:
    model = llama()
    state = {LLAVA[names](n): t.clone() for n, t in model.state_dict().items()}
    image_side = {
        "llava": "model.mm_projector.0.weight",
        "llava-hf, transformers 4": "multi_modal_projector.linear_1.weight",
        "llava-hf, transformers 5": "model.vision_tower.x",
    }[names]
    state |= {image_side: torch.rand(3), f"{LLAVA[names]('model.layers.0.self_attn.')}rotary_emb.inv_freq": torch.rand(4)}
    folder = tmp_path / "llava"
    folder.mkdir()
    shards = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(state)}
    for shard in set(shards.values()):
        torch.save({n: t for n, t in state.items() if shards[n] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    fields = {k: v for k, v in model.config.to_dict().items() if k not in ("model_type", "architectures")}
    config = {"model_type": "llava", "mm_hidden_size": 1024, **fields}
    if names != "llava":
        config = {"model_type": "llava", "text_config": {"model_type": "llama", **fields}}
    (folder / "config.json").write_text(json.dumps(config))
    TOKENIZER.save_pretrained(folder)
    report = import_weights(folder, tmp_path / "out")
    assert report.kind == "llm"
    assert report.counts()["dropped"] == 2
    loaded = LanguageModel(str(tmp_path / "out"))
    assert torch.equal(logits(loaded.model), logits(model))
    assert loaded.tokenizer("red dress")["input_ids"] == TOKENIZER("red dress")["input_ids"]
    with pytest.raises(FileNotFoundError, match=r"no tensors in our names \(llm\)\. Use: caption.language_model"):
        load_imported(model, tmp_path / "out")


@pytest.fixture
def lora_folder(tmp_path: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(llama(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapters = [p for n, p in model.named_parameters() if "lora_" in n]
    with torch.no_grad():
        for i, parameter in enumerate(adapters):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
    model.save_pretrained(tmp_path / "lora")
    torch.save(logits(model), tmp_path / "logits.pt")
    return tmp_path / "lora"


def test_a_lora_kept_apart_fills_the_caption_head(lora_folder: Path, tmp_path: Path) -> None:
    report = import_weights(lora_folder, tmp_path / "out")
    assert report.kind == "lora"
    assert any("rank: 4, alpha: 8" in note for note in report.notes)
    base = tmp_path / "base"
    llama().save_pretrained(base)
    TOKENIZER.save_pretrained(base)
    caption = CaptionModule(
        language_model=LanguageModel(str(base), lora=LoraSettings(rank=4, alpha=8)), query_width=peers.HIDDEN
    )
    model = peers.our_model()
    model.caption_head = caption
    loaded = load_imported(model, tmp_path / "out")
    assert "caption_head.language_model" in loaded.absent
    torch.testing.assert_close(logits(caption.language_model.model), torch.load(tmp_path / "logits.pt"), atol=1e-5, rtol=0)


def test_a_lora_added_to_its_base_is_a_plain_language_model(lora_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    llama().save_pretrained(base)
    import_weights(lora_folder, tmp_path / "out", base=base)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.state_dict().keys() == llama().state_dict().keys()
    torch.testing.assert_close(logits(merged), torch.load(tmp_path / "logits.pt"), atol=1e-5, rtol=0)
    weight = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    own = load_file(lora_folder / "adapter_model.safetensors")
    expected = llama().model.layers[0].mlp.up_proj.weight + 2 * own[weight.format("B")] @ own[weight.format("A")]
    torch.testing.assert_close(merged.model.layers[0].mlp.up_proj.weight, expected, atol=1e-6, rtol=0)


def test_loras_that_do_not_fit_are_refused(lora_folder: Path, tmp_path: Path) -> None:
    wide = LlamaForCausalLM(LlamaConfig(**{**peers.llama_config(len(TOKENIZER)), "hidden_size": 64}))
    wide.save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match="does not fit the base"):
        import_weights(lora_folder, tmp_path / "out", base=tmp_path / "wide")
    file = lora_folder / "adapter_model.safetensors"
    torch.save(
        {n: t for n, t in load_file(file).items() if "layers.1.mlp.up_proj.lora_B" not in n}, lora_folder / "adapter_model.bin"
    )
    file.unlink()
    with pytest.raises(ValueError, match=r"1 halves of LoRA pairs missing .*layers.1.mlp.up_proj.lora_B"):
        import_weights(lora_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
