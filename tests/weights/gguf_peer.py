"""A small Llama as llama.cpp's converter writes it, by gguf's own writer."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from unifashion_pl.tasks.language_model import load_llm_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 96, "rms_norm_eps": 1e-5,
}  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
TOKENIZER = load_llm_tokenizer("tiny")


def model_of(family: str, tied: bool) -> Any:
    torch.manual_seed(0)
    config, cls = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[family]
    model = cls(config(**SIZES, vocab_size=len(TOKENIZER), tie_word_embeddings=tied)).eval()  # type: ignore[operator]
    for p in model.parameters():
        p.data.add_(torch.randn_like(p) / 10)
    return model


def peer_name(name: str) -> str:
    """transformers' name in GGUF's words."""
    stem, _, leaf = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, inner = stem.split(".", 3)
        return f"blk.{layer}.{NAMES[inner]}.{leaf}"
    return {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[stem] + f".{leaf}"


def rotated(array: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of queries and keys: the halves of a head beside each other (its ``LlamaModel.permute``)."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def write_gguf(
    path: Path, family: str = "llama", *, kind: str = "Q4_1", tied: bool = True, tokenizer: bool = True, **fields: Any
) -> Any:
    """Write the file; returns the model, whose weights are those before quantising."""
    model = model_of(family, tied)
    writer = GGUFWriter(path, family)
    writer.add_block_count(2)
    writer.add_context_length(96)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENIZER))
    for key, value in fields.items():
        writer.add_float32(f"{family}.{key.replace('__', '.')}", value)
    if tokenizer:
        add_tokenizer(writer)
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        array = tensor.numpy()
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            array = rotated(array, 4 if "q_proj" in name else 2)
        if array.ndim == 2 and kind != "F32":
            own = GGMLQuantizationType["Q8_0" if "embed" in name else kind]
            writer.add_tensor(peer_name(name), quantize(array, own), raw_dtype=own)
        else:
            writer.add_tensor(peer_name(name), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def add_tokenizer(writer: GGUFWriter) -> None:
    """The shipped byte-level tokenizer."""
    content = json.loads((files("unifashion_pl.configs") / "tiny_llm_tokenizer.json").read_text())["model"]
    words = sorted(TOKENIZER.get_vocab(), key=TOKENIZER.get_vocab().get)  # type: ignore[arg-type]
    special = {TOKENIZER.bos_token, TOKENIZER.eos_token, TOKENIZER.pad_token}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in special else 1 for word in words])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]])
    writer.add_bos_token_id(TOKENIZER.bos_token_id)
    writer.add_eos_token_id(TOKENIZER.eos_token_id)
    writer.add_pad_token_id(TOKENIZER.pad_token_id)
    writer.add_chat_template("{{ raise_exception('a program') }}")
