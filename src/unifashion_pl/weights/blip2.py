"""BLIP-2 in LAVIS' and in transformers' names -> ours (``backbone.*``, ``retrieval_head.*``).

Both name the same first-stage model: EVA-CLIP tower, ``ln_vision``, Q-Former, projections, matching head. Ours keeps timm's names for the
tower, in which LAVIS' load unchanged, and transformers' for the Q-Former.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.weights.ledger import Ledger, compare

TOWER = "backbone.vision.model."
_LAYER = r"Qformer\.bert\.encoder\.layer\.(\d+)\."
_LM = r"Qformer\.cls\.predictions\."

#: LAVIS (``Blip2Qformer``) -> ours.
LAVIS_RULES = (
    (r"query_tokens", "backbone.query_tokens"),
    (r"ln_vision\.(\w+)", r"backbone.ln_vision.\1"),
    (r"visual_encoder\.(.+)", rf"{TOWER}\1"),
    (r"Qformer\.bert\.embeddings\.(word|position)_embeddings\.weight", r"backbone.embeddings.\1_embeddings.weight"),
    (r"Qformer\.bert\.embeddings\.LayerNorm\.(\w+)", r"backbone.qformer.layernorm.\1"),
    (_LAYER + r"(attention|crossattention)\.self\.(.+)", r"backbone.qformer.encoder.layer.\1.\2.attention.\3"),
    (_LAYER + r"(.+)", r"backbone.qformer.encoder.layer.\1.\2"),
    (r"(vision_proj|text_proj|itm_head)\.(\w+)", r"retrieval_head.\1.\2"),
    (r"temp", "retrieval_head.temperature"),
    (_LM + r"transform\.dense\.(\w+)", r"retrieval_head.lm_head.dense.\1"),
    (_LM + r"transform\.LayerNorm\.(\w+)", r"retrieval_head.lm_head.norm.\1"),
    (_LM + r"bias", "retrieval_head.lm_head.bias"),
)

_BLOCK = r"vision_model\.encoder\.layers\.(\d+)\."
#: transformers (``Blip2ForImageTextRetrieval``) -> ours; ``qkv.bias`` is split apart from these.
HF_RULES = (
    (r"query_tokens", "backbone.query_tokens"),
    (r"(embeddings|qformer)\.(.+)", r"backbone.\1.\2"),
    (r"vision_projection\.(\w+)", r"retrieval_head.vision_proj.\1"),
    (r"text_projection\.(\w+)", r"retrieval_head.text_proj.\1"),
    (r"itm_head\.(\w+)", r"retrieval_head.itm_head.\1"),
    (r"vision_model\.post_layernorm\.(\w+)", r"backbone.ln_vision.\1"),
    (r"vision_model\.embeddings\.class_embedding", f"{TOWER}cls_token"),
    (r"vision_model\.embeddings\.position_embedding", f"{TOWER}pos_embed"),
    (r"vision_model\.embeddings\.patch_embedding\.(\w+)", rf"{TOWER}patch_embed.proj.\1"),
    (_BLOCK + r"layer_norm([12])\.(\w+)", rf"{TOWER}blocks.\1.norm\2.\3"),
    (_BLOCK + r"mlp\.(fc[12])\.(\w+)", rf"{TOWER}blocks.\1.mlp.\2.\3"),
    (_BLOCK + r"self_attn\.qkv\.weight", rf"{TOWER}blocks.\1.attn.qkv.weight"),
    (_BLOCK + r"self_attn\.projection\.(\w+)", rf"{TOWER}blocks.\1.attn.proj.\2"),
)

#: Part of ours -> what stands in its place when a file lacks it.
MAY_BE_ABSENT = {
    "backbone.vision": "the tower keeps the weights that its config names; import again with --tower eva_vit_g.pth (LAVIS publishes "
    "the frozen tower apart)",
    "backbone.target_query_tokens": "q_T starts as a copy of q_R",
    "retrieval_head.temperature": "the model's own start value stays (0.07)",
    "retrieval_head.itm_head": "the matching head starts random",
    "retrieval_head.lm_head": "the Q-Former's LM head, if built, starts random",
}
POSITIONS = "0, 1, 2, ..., which the embeddings count themselves"


def map_lavis(ledger: Ledger) -> None:
    """Names of LAVIS' ``Blip2Qformer`` and of models derived from it."""
    ledger.drop_matching(r"Qformer\.bert\.embeddings\.position_ids", POSITIONS)
    _drop_decoder(ledger)
    ledger.rename(LAVIS_RULES)


def _drop_decoder(ledger: Ledger) -> None:
    """The LM head's decoder is the word embeddings and its bias a second name of ``bias``; where it is not, the head cannot be ours."""
    prefix = "Qformer.cls.predictions."
    weight, bias = (ledger.source.get(f"{prefix}decoder.{leaf}") for leaf in ("weight", "bias"))
    words = ledger.source.get("Qformer.bert.embeddings.word_embeddings.weight")
    own_bias = ledger.source.get(f"{prefix}bias")
    tied = weight is None or (words is not None and torch.equal(weight, words))
    same = bias is None or (own_bias is not None and torch.equal(bias, own_bias))
    if tied and same:
        ledger.drop_matching(_LM + r"decoder\.weight", "equal to the word embeddings, to which the decoder is tied")
        ledger.drop_matching(_LM + r"decoder\.bias", "equal to predictions.bias, the same tensor under a second name")
        return
    ledger.drop_matching(
        _LM + r".+", "the decoder differs from the word embeddings, to which the decoder of our LM head is tied"
    )


def map_hf(ledger: Ledger) -> None:
    """Names of transformers' ``Blip2ForImageTextRetrieval``.

    Raises:
        ValueError: a bias of the keys that is not zero; EVA's tower has none.
    """
    ledger.drop_matching(r".*position_ids", POSITIONS)
    for name in [n for n in ledger.left if re.fullmatch(_BLOCK + r"self_attn\.qkv\.bias", n)]:
        q, k, v = ledger.source[name].chunk(3)
        if not k.is_meta and k.any():
            raise ValueError(
                f"{name}: the bias of the keys is not zero, and EVA's tower has none: this is another vision tower"
            )
        block = name.split(".")[3]
        parts = {f"{TOWER}blocks.{block}.attn.q_bias": q.clone(), f"{TOWER}blocks.{block}.attn.v_bias": v.clone()}
        ledger.split(name, parts, "queries and values; the bias of the keys is zero")
    ledger.rename(HF_RULES)


def hf_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' config of a BLIP-2 says beside the sizes that its tensors show."""
    from transformers import Blip2Config

    full = Blip2Config(**{name: value for name, value in config.items() if name in ("vision_config", "qformer_config")})
    qformer: Any = full.qformer_config
    vision: Any = full.vision_config
    return {
        "backbone.qformer.heads": qformer.num_attention_heads,
        "backbone.qformer.activation": qformer.hidden_act,
        "backbone.qformer.eps": qformer.layer_norm_eps,
        "backbone.vision.heads": vision.num_attention_heads,
        "backbone.vision.activation": vision.hidden_act,
        "backbone.vision.eps": vision.layer_norm_eps,
    }


def map_tower(ledger: Ledger) -> None:
    """A tower alone: LAVIS' ``eva_vit_g.pth`` or a timm file. BLIP-2 uses neither the last of EVA's 40 blocks nor the final norm."""
    ledger.drop_matching(r"(norm|fc_norm|head)\..+", "final norm and classifier: BLIP-2 reads the output of the last block")
    ledger.drop_matching(r"blocks\.39\..+", "block 40 of 40: BLIP-2 reads the output of block 39")
    ledger.drop_matching(r".*(relative_position_index|rope\..+|k_bias)", "a constant of the architecture")
    ledger.rename(((r"(.+)", rf"{TOWER}\1"),))


def check_blip2(tensors: Mapping[str, Tensor], path: str, ignore: tuple[str, ...] = ()) -> dict[str, str]:
    """Compare mapped tensors with the peers' own classes at the sizes that the file shows.

    Args:
        ignore: prefixes of tensors that belong to other parts of the model.

    Returns:
        Absent parts -> what stands in their place.

    Raises:
        ValueError: a required part is missing, or a part is half there.
    """
    own = {name: t for name, t in tensors.items() if not name.startswith(ignore)}
    expected = blip2_reference(own, path)
    parts = {part_name(name) for name in own}
    absent = {part: reason for part, reason in MAY_BE_ABSENT.items() if part not in parts}
    compare(own, {n: t for n, t in expected.items() if part_name(n) not in absent}, path)
    return absent


def part_name(name: str) -> str:
    """Room and part of a tensor: ``backbone.vision.model.cls_token`` -> ``backbone.vision``. LoRA, U-Net and garment branch are parts of
    their own."""
    levels = 3 if name.startswith("diffusion_head.denoiser.") else 2
    part = ".".join(name.split(".")[:levels])
    return f"{part}.lora" if ".lora_" in name else part


def blip2_reference(tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """All tensors of backbone and retrieval head on the meta device, at the sizes that these tensors show.

    Raises:
        ValueError: a tensor from which sizes are read is missing.
    """
    from transformers import Blip2QFormerConfig, Blip2QFormerModel
    from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

    from unifashion_pl.tasks.retrieval import RetrievalModule

    layer = "backbone.qformer.encoder.layer."
    needed = {
        "queries": "backbone.query_tokens",
        "words": "backbone.embeddings.word_embeddings.weight",
        "positions": "backbone.embeddings.position_embeddings.weight",
        "ffn": f"{layer}0.intermediate_query.dense.weight",
        "cross": f"{layer}0.crossattention.attention.key.weight",
        "embed": "retrieval_head.vision_proj.weight",
    }
    if gone := [name for name in needed.values() if name not in tensors]:
        raise ValueError(f"{path} lacks {len(gone)} tensors that every BLIP-2 has, e.g. {gone[0]} in our names: half a file?")
    shape = {key: tuple(tensors[name].shape) for key, name in needed.items()}
    vocab, hidden = shape["words"]
    layers = 1 + max(int(name[len(layer) :].split(".")[0]) for name in tensors if name.startswith(layer))
    crossing = [i for i in range(layers) if f"{layer}{i}.crossattention.attention.key.weight" in tensors]
    config = Blip2QFormerConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=1,
        intermediate_size=shape["ffn"][0],
        max_position_embeddings=shape["positions"][0],
        encoder_hidden_size=shape["cross"][1],
        cross_attention_frequency=crossing[1] if len(crossing) > 1 else layers,
        use_qformer_text_input=True,
    )
    with torch.device("meta"):
        modules = {
            "backbone.embeddings": Blip2TextEmbeddings(config),
            "backbone.qformer": Blip2QFormerModel(config),
            "backbone.ln_vision": torch.nn.LayerNorm(shape["cross"][1]),
            "retrieval_head": RetrievalModule(hidden_size=hidden, embed_dim=shape["embed"][0], lm_vocab=vocab),
        }
        queries = torch.empty(shape["queries"])
    expected = {f"{prefix}.{name}": t for prefix, module in modules.items() for name, t in module.state_dict().items()}
    expected |= {"backbone.query_tokens": queries, "backbone.target_query_tokens": queries}
    return expected | (tower_reference(tensors) if f"{TOWER}pos_embed" in tensors else {})


def tower_reference(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's EVA tower on the meta device, at the sizes that these tensors of ours show, without its final norm."""
    import timm

    width, channels, patch, _ = tensors[f"{TOWER}patch_embed.proj.weight"].shape
    side = round((tensors[f"{TOWER}pos_embed"].shape[1] - 1) ** 0.5)
    blocks = {int(n[len(TOWER) :].split(".")[1]) for n in tensors if n.startswith(f"{TOWER}blocks.")}
    with torch.device("meta"):
        tower = timm.create_model(
            "eva_giant_patch14_clip_224",
            depth=1 + max(blocks, default=0),
            embed_dim=width,
            num_heads=1,
            patch_size=patch,
            img_size=side * patch,
            in_chans=channels,
            mlp_ratio=(tensors[f"{TOWER}blocks.0.mlp.fc1.bias"].shape[0] + 0.5) / width,
            num_classes=0,
        )
    return {f"{TOWER}{name}": t for name, t in tower.state_dict().items() if not name.startswith("norm.")}
