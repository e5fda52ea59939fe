"""Checkpoints of UniFashion's and SPRC's published code -> ours.

Both save ``{"epoch": int, "<ClassName>": state_dict}`` of a LAVIS model with a few tensors of their own. SPRC's ``prompt_tokens`` are no
target queries: they align texts in training and take no part in its search, whose gallery is made with ``query_tokens``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unifashion_pl.weights.blip2 import map_lavis
from unifashion_pl.weights.ldm import clip_text_prefix
from unifashion_pl.weights.ledger import Ledger
from unifashion_pl.weights.llm import LLM, peft_base_names

#: Modules that the released forward passes never use.
UNUSED = r"(query_proj|caption_proj)\..+|llm_query_tokens|ctx_embeddings_cache"

UNIFASHION_RULES = (
    (r"prompt_tokens", "backbone.target_query_tokens"),
    (r"llm_proj\.(\w+)", r"caption_head.adapter.\1"),
    (r"proj_layer\.LayerNorm\.(\w+)", r"diffusion_head.adapter.norm.\1"),
    (r"proj_layer\.(dense[12])\.(\w+)", r"diffusion_head.adapter.\1.\2"),
    (r"llm_model\.(.+)", rf"{LLM}\1"),
    (r"unet\.(.+)", r"diffusion_head.denoiser.unet.\1"),
    (r"vae\.(.+)", r"diffusion_head.vae.model.\1"),
)
#: Prefixes of ours that are compared elsewhere than with BLIP-2's classes.
BESIDE_BLIP2 = ("caption_head.", "diffusion_head.")


def map_unifashion(ledger: Ledger) -> list[str]:
    """``Blip2QformerCirCls``, ``...CirRerank`` and ``...CirFull``. Returns notes for the user."""
    ledger.drop_matching(UNUSED, "never used by the released forward passes")
    ledger.drop_matching(r"llm_model\..*rotary_emb\.inv_freq", "a constant, computed anew")
    ledger.drop_matching(r"text_encoder\..*position_ids", "0, 1, 2, ...")
    for name, today in peft_base_names(ledger.left).items():
        ledger.move(name, LLM + today.removeprefix("llm_model."), reason="older peft named the base layer without base_layer")
    ledger.rename(((r"text_encoder\.(?:text_model\.)?(.+)", rf"diffusion_head.text_encoder.model.{clip_text_prefix()}\1"),))
    map_lavis(ledger)
    ledger.rename(UNIFASHION_RULES)
    notes = []
    if "prompt_tokens" in ledger.source:
        notes.append("the released re-ranking model made its gallery with q_R although q_T was trained for targets: score with q_R "
                     "(query_set='reference') to compare with its numbers")  # fmt: skip
    if any(name.startswith("proj_layer.") for name in ledger.source):
        notes.append("build the diffusion head with adapter: residual_mlp to take diffusion_head.adapter")
    if any(".lora_" in name for name in ledger.source):
        notes.append("the LoRA's alpha is not in the file: build the language model with the one that it was trained with")
    return notes


def map_sprc(ledger: Ledger) -> list[str]:
    """``Blip2QformerCirAlignPrompt`` and its siblings. Returns notes for the user."""
    ledger.drop_matching(r"prompt_tokens", "aligns texts in SPRC's training and takes no part in its search")
    ledger.drop_matching(UNUSED, "never used by the released forward passes")
    map_lavis(ledger)
    return [
        "SPRC composes in two passes (fused queries, then a text pass over them), ours in one (Eq. 9 of UniFashion): a start for training, "
        "not a copy of its numbers"
    ]


def check_adapters(tensors: Mapping[str, Tensor], path: str) -> None:
    """
    Raises:
        ValueError: half an adapter of the LLM or of the denoiser.
    """
    pair = ("weight", "bias")
    whole = {
        "caption_head.adapter.": {*pair},
        "diffusion_head.adapter.": {f"{module}.{leaf}" for module in ("norm", "dense1", "dense2") for leaf in pair},
    }
    for prefix, leaves in whole.items():
        found = {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
        if found and found != leaves:
            gone = sorted(prefix + leaf for leaf in leaves - found)
            raise ValueError(f"{path} holds half an adapter: {prefix}* lacks {gone}. Nothing was written")
