"""Checkpoints of UniFashion's and SPRC's published code -> ours.

Both save ``{"epoch": int, "<ClassName>": state_dict}`` of a LAVIS model with a few tensors of their own. SPRC's ``prompt_tokens`` are no
target queries: they align texts in training and take no part in its search, whose gallery is made with ``query_tokens``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from unifashion_pl.weights.blip2 import map_lavis
from unifashion_pl.weights.llm import LLM, peft_base_names
from unifashion_pl.weights.plan import Plan, patterns

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


def map_unifashion(plan: Plan) -> list[str]:
    """``Blip2QformerCirCls``, ``...CirRerank`` and ``...CirFull``. Returns notes for the user."""
    plan.drop_matching(UNUSED, "never used by the released forward passes")
    plan.drop_matching(r"llm_model\..*rotary_emb\.inv_freq", "a constant, computed anew")
    plan.drop_matching(r"text_encoder\..*position_ids", "0, 1, 2, ...")
    base = peft_base_names(plan.left)
    for name in plan.left:
        if name in base:
            plan.move(
                name, LLM + base[name].removeprefix("llm_model."), reason="older peft named the base layer without base_layer"
            )
    _map_text_encoder(plan)
    map_lavis(plan)
    plan.rename(patterns(UNIFASHION_RULES))
    notes = []
    if "prompt_tokens" in plan.source:
        notes.append("the released re-ranking model made its gallery with q_R although q_T was trained for targets: score with q_R "
                     "(query_set='reference') to compare with its numbers")  # fmt: skip
    if any(name.startswith("proj_layer.") for name in plan.source):
        notes.append("build the diffusion head with adapter: residual_mlp to take diffusion_head.adapter")
    return notes


def _map_text_encoder(plan: Plan) -> None:
    """The text encoder in the names that the installed transformers gives its class."""
    from unifashion_pl.weights.ldm import clip_text_target

    for name in plan.left:
        if match := re.fullmatch(r"text_encoder\.(?:text_model\.)?(.+)", name):
            plan.move(name, f"diffusion_head.text_encoder.model.{clip_text_target(match[1])}")


def map_sprc(plan: Plan) -> list[str]:
    """``Blip2QformerCirAlignPrompt`` and its siblings. Returns notes for the user."""
    plan.drop_matching(r"prompt_tokens", "aligns texts in SPRC's training and takes no part in its search")
    plan.drop_matching(UNUSED, "never used by the released forward passes")
    map_lavis(plan)
    return [
        "SPRC composes in two passes (fused queries, then a text pass over them), ours in one (Eq. 9 of UniFashion): a start for training, "
        "not a copy of its numbers"
    ]


def check_residual(tensors: Mapping[str, Tensor], path: str) -> None:
    """Adapters and LLM beside BLIP-2: pairs of weight and bias, and equal widths.

    Raises:
        ValueError: half an adapter.
    """
    for prefix, leaves in (
        ("caption_head.adapter.", ("weight", "bias")),
        ("diffusion_head.adapter.", tuple(f"{m}.{leaf}" for m in ("norm", "dense1", "dense2") for leaf in ("weight", "bias"))),
    ):
        found = {name for name in tensors if name.startswith(prefix)}
        if found and found != {prefix + leaf for leaf in leaves}:
            gone = sorted({prefix + leaf for leaf in leaves} - found)
            raise ValueError(f"{path} holds half an adapter: {prefix}* lacks {gone}. Nothing was written")
