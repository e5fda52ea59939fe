"""Synthetic checkpoints in the names of published ones: real classes of the peers, scaled down, with random weights.

The maps back to published names are written from the two naming schemes and share nothing with the importer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unifashion_pl.backbone import QFormerBackbone, VisionTower
from unifashion_pl.backbone.tokenizer import load_tokenizer
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks import RetrievalModule

WIDTH, HIDDEN, LAYERS, QUERIES, EMBED, SIDE = 32, 24, 3, 4, 16, 28
VOCAB = len(load_tokenizer("tiny"))


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0, scale: float = 0.2) -> Any:
    """Every parameter random, so that no test passes because something is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def blip2(full_size: bool = False) -> Any:
    """transformers' ``Blip2ForImageTextRetrieval``; at full size on the meta device."""
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    if full_size:
        vision = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16}
        qformer = {"vocab_size": 30523, "encoder_hidden_size": 1408, "use_qformer_text_input": True}
        with torch.device("meta"):
            return Blip2ForImageTextRetrieval(
                Blip2Config(vision_config=vision, qformer_config=qformer, image_text_hidden_size=256)
            )
    vision = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
              "patch_size": 14, "layer_norm_eps": 1e-6}  # fmt: skip
    qformer = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
               "intermediate_size": 48, "encoder_hidden_size": WIDTH, "use_qformer_text_input": True}  # fmt: skip
    config = Blip2Config(vision_config=vision, qformer_config=qformer, num_query_tokens=QUERIES, image_text_hidden_size=EMBED)
    model = randomise(Blip2ForImageTextRetrieval(config))
    with torch.no_grad():
        for layer in model.vision_model.encoder.layers:
            layer.self_attn.qkv.bias[WIDTH : 2 * WIDTH] = 0
    model.vision_model.post_layernorm.eps = 1e-5  # LAVIS' ln_vision
    return model


def to_lavis(state: dict[str, Tensor], *, tower: bool = True) -> dict[str, Tensor]:
    """Names of ``Blip2ForImageTextRetrieval`` -> LAVIS', with the nine tensors that transformers has no home for."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = name
        if name.startswith("embeddings."):
            new = f"Qformer.bert.{name}"
        elif name.startswith("qformer.layernorm."):
            new = name.replace("qformer.layernorm", "Qformer.bert.embeddings.LayerNorm")
        elif name.startswith("qformer."):
            new = re.sub(r"(attention|crossattention)\.attention\.", r"\1.self.", name.replace("qformer.", "Qformer.bert."))
        elif name.startswith("vision_model.post_layernorm"):
            new = name.replace("vision_model.post_layernorm", "ln_vision")
        elif name.startswith("vision_model.") and not tower:
            continue
        elif name.endswith("self_attn.qkv.bias"):
            block = name.split(".")[3]
            q, _, v = tensor.chunk(3)
            out[f"visual_encoder.blocks.{block}.attn.q_bias"], out[f"visual_encoder.blocks.{block}.attn.v_bias"] = (
                q.clone(),
                v.clone(),
            )
            continue
        elif name.startswith("vision_model."):
            for ours, theirs in (
                ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
                ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
                ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
                ("vision_model.encoder.layers", "visual_encoder.blocks"),
                ("layer_norm", "norm"),
                ("self_attn.projection", "attn.proj"),
                ("self_attn", "attn"),
            ):
                new = new.replace(ours, theirs)
        else:
            new = name.replace("_projection", "_proj")
        out[new] = tensor
    words = state["embeddings.word_embeddings.weight"]
    vocab, hidden = words.shape
    like = words.new_empty
    head = {
        "bias": like(vocab),
        "decoder.weight": words,
        "transform.dense.weight": like(hidden, hidden),
        "transform.dense.bias": like(hidden),
        "transform.LayerNorm.weight": like(hidden),
        "transform.LayerNorm.bias": like(hidden),
    }
    for leaf, tensor in head.items():
        if leaf != "decoder.weight" and not tensor.is_meta:
            torch.manual_seed(len(leaf))
            tensor.normal_()
    head["decoder.bias"] = head["bias"]
    out |= {f"Qformer.cls.predictions.{leaf}": tensor for leaf, tensor in head.items()}
    out["Qformer.bert.embeddings.position_ids"] = torch.arange(512)[None]
    out["temp"] = torch.tensor(0.0123)
    return out


def our_model(**heads: Any) -> UniFashionModule:
    """A UniFashionModule of the sizes of :func:`blip2`, with other random weights."""
    tower = VisionTower(
        "eva_giant_patch14_clip_224",
        image_size=SIDE,
        timm_kwargs={"depth": 2, "embed_dim": WIDTH, "num_heads": 2, "mlp_ratio": 2.0, "img_size": SIDE},
    )
    backbone = QFormerBackbone(
        tower, num_queries=QUERIES, hidden_size=HIDDEN, num_layers=LAYERS, num_heads=2, intermediate_size=48
    )
    heads = {"retrieval": RetrievalModule(hidden_size=HIDDEN, embed_dim=EMBED, lm_vocab=VOCAB), **heads}
    return randomise(UniFashionModule(backbone, **heads), seed=1)


UNET: dict[str, Any] = {
    "sample_size": 8,
    "layers_per_block": 2,
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 64,
    "attention_head_dim": 8,
}
VAE: dict[str, Any] = {
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 2,
    "latent_channels": 4,
}
CLIP: dict[str, Any] = {"vocab_size": 54, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1,
                        "max_position_embeddings": 12, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}  # fmt: skip


def unet(in_channels: int = 4, seed: int = 0) -> Any:
    from diffusers import UNet2DConditionModel

    return randomise(UNet2DConditionModel(**UNET, in_channels=in_channels), seed, 0.05)


def vae(seed: int = 1) -> Any:
    from diffusers import AutoencoderKL

    return randomise(AutoencoderKL(**VAE), seed, 0.05)


def text_encoder(seed: int = 2) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return randomise(CLIPTextModel(CLIPTextConfig(**CLIP)), seed)


_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip


def _unet_place(place: str, levels: int, layers: int, attention: list[bool]) -> str:
    """Module of diffusers' U-Net -> that of LDM's, by counting blocks as LDM's constructor does."""
    if match := re.fullmatch(r"down_blocks\.(\d)\.(resnets|attentions)\.(\d)", place):
        i, kind, j = int(match[1]), match[2], int(match[3])
        return f"input_blocks.{1 + i * (layers + 1) + j}.{int(kind == 'attentions')}"
    if match := re.fullmatch(r"down_blocks\.(\d)\.downsamplers\.0\.conv", place):
        return f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)", place):
        return f"middle_block.{1 if match[1] == 'attentions' else 2 * int(match[2])}"
    if match := re.fullmatch(r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)", place):
        i, kind, j = int(match[1]), match[2], int(match[3])
        return f"output_blocks.{i * (layers + 1) + j}.{int(kind == 'attentions')}"
    match = re.fullmatch(r"up_blocks\.(\d)\.upsamplers\.0\.conv", place)
    assert match is not None, place
    i = int(match[1])
    return f"output_blocks.{i * (layers + 1) + layers}.{2 if attention[levels - 1 - i] else 1}.conv"


def to_ldm_unet(
    state: Mapping[str, Tensor], prefix: str = "model.diffusion_model.", *, fields: Mapping[str, Any] = UNET
) -> dict[str, Tensor]:
    """Names of a U-Net built from ``fields`` -> those of the latent-diffusion code (openaimodel.py)."""
    attention = ["CrossAttn" in kind for kind in fields["down_block_types"]]
    top = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
           "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
    out = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        if module in top:
            out[f"{prefix}{top[module]}.{leaf}"] = tensor
            continue
        match = re.match(r"(.+?\.(?:resnets|attentions)\.\d|.+samplers\.0\.conv)(?:\.(.+))?$", module)
        assert match is not None, name
        rest = match[2] or ""
        if ".resnets." in match[1]:
            rest = _RESNET[rest]
        place = _unet_place(match[1], len(attention), fields["layers_per_block"], attention)
        out[".".join(filter(None, (f"{prefix}{place}", rest, leaf)))] = tensor
    return out


def to_ldm_vae(
    state: Mapping[str, Tensor], prefix: str = "first_stage_model.", *, fields: Mapping[str, Any] = VAE
) -> dict[str, Tensor]:
    """Names of an ``AutoencoderKL`` built from ``fields`` -> those of the latent-diffusion code; attention as 1 x 1 convolutions."""
    levels = len(fields["block_out_channels"])
    out = {}
    for name, tensor in state.items():
        new = name
        new = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2", new)
        new = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample.", new)
        new = re.sub(
            r"decoder\.up_blocks\.(\d)\.(resnets\.(\d)|upsamplers\.0)",
            lambda m: f"decoder.up.{levels - 1 - int(m[1])}." + (f"block.{m[3]}" if m[3] else "upsample"),
            new,
        )
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if ".mid_block.attentions.0." in new:
            for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
                new = new.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        out[f"{prefix}{new}"] = tensor
    return out


def to_ldm_text(
    state: Mapping[str, Tensor],
    prefix: str = "cond_stage_model.transformer.",
    *,
    positions: int = CLIP["max_position_embeddings"],
) -> dict[str, Tensor]:
    """Names of ``CLIPTextModel`` -> those of Stable Diffusion 1's checkpoints, with the positions that old transformers stored."""
    out = {f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}
    return {**out, f"{prefix}text_model.embeddings.position_ids": torch.arange(positions)[None]}


def ldm_process() -> dict[str, Tensor]:
    """Some of the buffers that published checkpoints carry, of Stable Diffusion 1's process (ldm/models/diffusion/ddpm.py)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    bar = np.cumprod(1 - betas)
    buffers = {
        "betas": betas, "alphas_cumprod": bar, "sqrt_alphas_cumprod": bar**0.5, "log_one_minus_alphas_cumprod": np.log(1 - bar),
        "logvar": np.zeros(1000),
    }  # fmt: skip
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in buffers.items()}


def unifashion_full(state: dict[str, Tensor], llm: dict[str, Tensor]) -> dict[str, Tensor]:
    """What ``Blip2QformerCirFull`` saves: LAVIS' names without LM head, the class's own tensors, an LLM in peft's names."""
    lavis = {n: t for n, t in to_lavis(state).items() if ".cls." not in n}
    torch.manual_seed(4)
    own = {
        "prompt_tokens": torch.randn(1, QUERIES, HIDDEN),
        "query_proj.weight": torch.rand(EMBED, EMBED),
        "caption_proj.bias": torch.rand(EMBED),
        "llm_query_tokens": torch.zeros(1, QUERIES, 32),
        "ctx_embeddings_cache": torch.zeros(1, QUERIES, HIDDEN),
        "llm_proj.weight": torch.randn(32, HIDDEN),
        "llm_proj.bias": torch.randn(32),
        "proj_layer.LayerNorm.weight": torch.randn(HIDDEN),
        "proj_layer.LayerNorm.bias": torch.randn(HIDDEN),
        "proj_layer.dense1.weight": torch.randn(4 * HIDDEN, HIDDEN),
        "proj_layer.dense1.bias": torch.randn(4 * HIDDEN),
        "proj_layer.dense2.weight": torch.randn(HIDDEN, 4 * HIDDEN),
        "proj_layer.dense2.bias": torch.randn(HIDDEN),
    }
    return {**lavis, **own, **{f"llm_model.{n}": t for n, t in llm.items()}}


def llama_config(vocab: int) -> dict[str, Any]:
    return {"vocab_size": vocab, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
