"""The kinds of published checkpoints, and which of them a file looks like by the names of its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unifashion_pl.weights.source import Source

#: What can be imported.
KINDS: dict[str, str] = {
    "blip2-lavis": "BLIP-2, first stage, in LAVIS' names",
    "blip2-hf": "BLIP-2 in transformers' names (Blip2ForImageTextRetrieval)",
    "unifashion": "UniFashion's published code (Blip2QformerCirCls, ...CirRerank, ...CirFull)",
    "sprc": "SPRC's published code (Blip2QformerCirAlignPrompt)",
    "tower": "EVA-CLIP vision tower alone (eva_vit_g.pth, timm)",
    "llm": "language model folder: Vicuna, LLaVA-1.5, any transformers decoder",
    "lora": "LoRA folder of peft for the language model",
    "sd": "Stable Diffusion 1.x, LDM checkpoint or diffusers folder",
    "pbe": "Paint-by-Example, LDM checkpoint or diffusers folder",
    "vae": "autoencoder of Stable Diffusion alone",
    "stableviton": "StableVITON",
}

#: Class names under which SPRC's code saves; UniFashion's code took over others of them.
SPRC_CLASSES = ("Blip2QformerCirAlignPrompt", "Blip2QformerCirCat")


def recognise(source: Source) -> str | None:
    """A key of :data:`KINDS`, or None for something else."""
    if source.parts:
        return "pbe" if source.config.get("_class_name") == "PaintByExamplePipeline" else "sd"
    if source.config.get("peft_type"):
        return "lora"
    names = source.tensors

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if has("Qformer."):
        if source.wrapper in SPRC_CLASSES:
            return "sprc"
        own = has("prompt_tokens", "llm_proj.", "llm_query_tokens", "query_proj.", "caption_proj.", "proj_layer.")
        return "unifashion" if own or (source.wrapper or "").startswith("Blip2QformerCir") else "blip2-lavis"
    if has("qformer.") and has("vision_projection.", "text_projection."):
        return "blip2-hf"
    if has("model.diffusion_model."):
        if has("control_model."):
            return "stableviton"
        return "pbe" if has("learnable_vector", "cond_stage_model.mapper.") else "sd"
    if has("encoder.down.", "encoder.down_blocks.", "first_stage_model.encoder."):
        return "vae"
    if has("model.layers.0.", "language_model.", "model.language_model."):
        return "llm"
    return "tower" if "blocks.0.attn.qkv.weight" in names and "pos_embed" in names else None
