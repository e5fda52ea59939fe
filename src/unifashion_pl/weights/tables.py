"""Names and shapes of the published models at their full size, taken from the peers' own classes on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Size, Tensor

from unifashion_pl.weights import blip2, ldm
from unifashion_pl.weights.plan import Plan

QFORMER = ("blip2-lavis", "blip2-hf", "unifashion", "sprc")
#: Vicuna-7B-v1.5 and the language model of LLaVA-1.5-7B.
LLAMA_7B: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


def blip2_peer() -> dict[str, Tensor]:
    """transformers' ``Blip2ForImageTextRetrieval`` as published, 809 tensors."""
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    vision = {
        "hidden_size": 1408,
        "intermediate_size": 6144,
        "num_hidden_layers": 39,
        "num_attention_heads": 16,
        "qkv_bias": True,
    }
    qformer = {"vocab_size": 30523, "encoder_hidden_size": 1408, "use_qformer_text_input": True}
    config = Blip2Config(vision_config=vision, qformer_config=qformer, num_query_tokens=32, image_text_hidden_size=256)
    with torch.device("meta"):
        return dict(Blip2ForImageTextRetrieval(config).state_dict())


def published_shapes(kind: str) -> dict[str, Size]:
    """Our name -> shape for a kind at its published size; empty where a kind has no single one."""
    tensors: Mapping[str, Tensor]
    if kind in QFORMER:
        plan = Plan(blip2_peer())
        blip2.map_hf(plan)
        tensors = plan.tensors
    elif kind == "tower":
        plan = Plan(blip2_peer())
        blip2.map_hf(plan)
        tensors = {name: t for name, t in plan.tensors.items() if name.startswith(blip2.TOWER)}
    elif kind == "llm":
        tensors = _llama()
    else:
        tensors = _diffusion(kind)
    return {name: t.shape for name, t in tensors.items()}


def _llama() -> Mapping[str, Tensor]:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**LLAMA_7B)).state_dict()


def _diffusion(kind: str) -> Mapping[str, Tensor]:
    from unifashion_pl.generation.garment import GarmentBranch

    unet: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
    unet["in_channels"] = 4 if kind == "sd" else ldm.EDITING_CHANNELS
    vae: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
    wanted = {"vae": vae} if kind == "vae" else {"unet": unet, "vae": vae}
    if kind == "sd":
        wanted["text_encoder"] = text
    if kind not in ("sd", "pbe", "vae", "stableviton"):
        return {}
    parts = {part: ldm.build_part(part, config) for part, config in wanted.items()}
    tensors = {f"{part}/{name}": t for part, model in parts.items() for name, t in model.state_dict().items()}
    if kind == "stableviton":
        with torch.device("meta"):
            tensors |= {f"{ldm.GARMENT}{name}": t for name, t in GarmentBranch(parts["unet"]).state_dict().items()}
    return tensors
