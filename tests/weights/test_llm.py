"""Language model folders: imported models write the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from unifashion_pl.tasks.language_model import LanguageModel, load_llm_tokenizer
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
