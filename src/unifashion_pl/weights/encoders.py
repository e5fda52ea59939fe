"""Image–text encoders in open_clip's and in transformers' names -> a folder for ``PublishedVision`` and ``PublishedText`` (``backbone.vision.*``,
``backbone.text_tower.*``, ``encoder.json``, ``tokenizer.json``).

open_clip's SigLIPs keep a ViT in timm's names (``visual.trunk.*``), its CLIPs OpenAI's names; transformers has names of its own for both.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.backbone.published import DESCRIPTION, TEXT, WORDS, Encoder, PublishedText, build_text, described, read_words
from unifashion_pl.parts.tensors import TENSORS, load_tensors
from unifashion_pl.weights.blip2 import POSITIONS, TOWER
from unifashion_pl.weights.download import Download
from unifashion_pl.weights.encoder_settings import settings_of
from unifashion_pl.weights.ledger import Ledger, Report, compare

MODEL = f"{TEXT}model."
_LEAF = r"(weight|bias)"
#: open_clip's and OpenAI's blocks.
_OPEN = r"transformer\.resblocks\.(\d+)\."
_HF = r"encoder\.layers\.(\d+)\."

#: Names below ``visual.`` -> timm's.
OPEN_IMAGE = (
    (r"trunk\.(.+)", rf"{TOWER}\1"),
    (r"conv1\.weight", f"{TOWER}patch_embed.proj.weight"),
    (r"ln_pre\.(\w+)", rf"{TOWER}norm_pre.\1"),
    (r"ln_post\.(\w+)", rf"{TOWER}norm.\1"),
    (_OPEN + r"ln_([12])\.(\w+)", rf"{TOWER}blocks.\1.norm\2.\3"),
    (_OPEN + rf"attn\.in_proj_{_LEAF}", rf"{TOWER}blocks.\1.attn.qkv.\2"),
    (_OPEN + r"attn\.out_proj\.(\w+)", rf"{TOWER}blocks.\1.attn.proj.\2"),
    (_OPEN + r"mlp\.c_fc\.(\w+)", rf"{TOWER}blocks.\1.mlp.fc1.\2"),
    (_OPEN + r"mlp\.c_proj\.(\w+)", rf"{TOWER}blocks.\1.mlp.fc2.\2"),
)
#: Names of open_clip's text transformer, perhaps below ``text.`` -> transformers'; ``in_proj`` is split apart from these.
OPEN_TEXT = (
    (r"token_embedding\.weight", f"{MODEL}embeddings.token_embedding.weight"),
    (r"positional_embedding", f"{MODEL}embeddings.position_embedding.weight"),
    (r"ln_final\.(\w+)", rf"{MODEL}final_layer_norm.\1"),
    (_OPEN + r"ln_([12])\.(\w+)", rf"{MODEL}encoder.layers.\1.layer_norm\2.\3"),
    (_OPEN + r"attn\.out_proj\.(\w+)", rf"{MODEL}encoder.layers.\1.self_attn.out_proj.\2"),
    (_OPEN + r"mlp\.c_fc\.(\w+)", rf"{MODEL}encoder.layers.\1.mlp.fc1.\2"),
    (_OPEN + r"mlp\.c_proj\.(\w+)", rf"{MODEL}encoder.layers.\1.mlp.fc2.\2"),
    (rf"text_projection\.{_LEAF}", rf"{MODEL}head.\1"),
)
#: Names below transformers' ``vision_model.`` -> timm's; queries, keys and values are merged apart from these.
HF_IMAGE = (
    (rf"embeddings\.patch_embedding\.{_LEAF}", rf"{TOWER}patch_embed.proj.\1"),
    (r"pre_layrnorm\.(\w+)", rf"{TOWER}norm_pre.\1"),
    (r"post_layernorm\.(\w+)", rf"{TOWER}norm.\1"),
    (_HF + r"layer_norm([12])\.(\w+)", rf"{TOWER}blocks.\1.norm\2.\3"),
    (_HF + r"self_attn\.out_proj\.(\w+)", rf"{TOWER}blocks.\1.attn.proj.\2"),
    (_HF + r"mlp\.(fc[12])\.(\w+)", rf"{TOWER}blocks.\1.mlp.\2.\3"),
    (r"head\.probe", f"{TOWER}attn_pool.latent"),
    (r"head\.attention\.out_proj\.(\w+)", rf"{TOWER}attn_pool.proj.\1"),
    (r"head\.layernorm\.(\w+)", rf"{TOWER}attn_pool.norm.\1"),
    (r"head\.mlp\.(fc[12])\.(\w+)", rf"{TOWER}attn_pool.mlp.\1.\2"),
)


def convert_encoder(source: Download, folder: Path | None, report: Report) -> Mapping[str, Tensor]:
    """Account for every tensor, compare them with the classes that will read them, and write description and tokenizer, if there is a folder.

    Raises:
        FileNotFoundError: no config or tokenizer beside the weights.
        ValueError: an architecture that is none of these, or unexplained, missing or misshapen tensors.
    """
    plain = {name: name.removeprefix("model.") for name in source.tensors}
    by_open_clip = any(name.startswith("visual.") for name in plain.values())
    encoder, words = settings_of(source, by_open_clip)
    ledger = Ledger(source.tensors)
    ledger.drop([name for name, short in plain.items() if short.endswith("position_ids")], POSITIONS)
    ledger.drop([name for name, short in plain.items() if short.endswith("attn_mask")], "a constant, computed anew")
    ledger.drop(
        [name for name, short in plain.items() if short == "logit_bias"],
        "the sigmoid loss' bias: here losses are softmax, and ranks do not depend on it",
    )
    for name, short in plain.items():
        if short == "logit_scale":
            ledger.move(name, f"{TEXT}logit_scale", source.tensors[name].reshape(()))
    (_map_open_clip if by_open_clip else _map_transformers)(ledger, plain)
    ledger.close(source.path, report)
    compare(ledger.tensors, reference(encoder), source.path)
    report.use = (
        "Use: backbone.vision: {class_path: unifashion_pl.backbone.PublishedVision, init_args: {source: FOLDER}}, backbone.text_tower: PublishedText "
        "with the same source (fashion.yaml)"
    )
    report.folders = {DESCRIPTION: "architectures of both towers", WORDS: "the text tower's tokenizer"}
    if folder is not None:
        (folder / DESCRIPTION).write_bytes(encoder.written())
        shutil.copyfile(words, folder / WORDS)
    return ledger.tensors


def check_encoder(folder: str | Path) -> None:
    """Compare an imported folder's tensors with its own description.

    Raises:
        FileNotFoundError, ValueError: it is none, or they differ.
    """
    encoder, place = described(folder, PublishedText.part)
    compare(load_tensors(place / TENSORS), reference(encoder), place)
    read_words(place / WORDS)


def reference(encoder: Encoder) -> dict[str, Tensor]:
    """Names and shapes of a description, of the classes that will read it on the meta device."""
    import timm

    side = encoder.image
    options: dict[str, Any] = {"img_size": side.image_size, **side.arguments}
    with torch.device("meta"):
        vision = timm.create_model(side.name, **options)
        text = build_text(encoder.text, encoder.width)
        scale = torch.zeros(())
    return {
        **{TOWER + name: tensor for name, tensor in vision.state_dict().items()},
        **{TEXT + name: tensor for name, tensor in text.state_dict().items()},
        f"{TEXT}logit_scale": scale,
    }


def _rename(ledger: Ledger, below: Mapping[str, str], rules: tuple[tuple[str, str], ...]) -> None:
    """Move names by rules for their short forms."""
    for short, name in below.items():
        for pattern, target in rules:
            if match := re.fullmatch(pattern, short):
                ledger.move(name, match.expand(target))
                break


def _below(ledger: Ledger, plain: Mapping[str, str], *prefixes: str) -> dict[str, str]:
    """Short name -> name of what is left below one of the prefixes."""
    return {
        plain[name].removeprefix(prefix): name for name in ledger.left for prefix in prefixes if plain[name].startswith(prefix)
    }


def _reshaped(ledger: Ledger, below: dict[str, str], short: str, target: str, shape: Callable[[Tensor], Tensor]) -> None:
    """Move one tensor in another shape, where it is there."""
    if (name := below.pop(short, None)) is not None:
        ledger.move(name, target, shape(ledger.source[name]).contiguous(), "in another shape")


def _projected(ledger: Ledger, name: str, weight: Tensor) -> None:
    """CLIP's projection of images, which has no bias, as timm's head, which has one."""
    parts = {f"{TOWER}head.weight": weight.contiguous(), f"{TOWER}head.bias": weight.new_zeros(len(weight))}
    ledger.split(name, parts, "timm's head has a bias: zeros")


def _map_open_clip(ledger: Ledger, plain: Mapping[str, str]) -> None:
    below = _below(ledger, plain, "visual.")
    if "proj" in below:
        name = below.pop("proj")
        _projected(ledger, name, ledger.source[name].T)
    _reshaped(ledger, below, "class_embedding", f"{TOWER}cls_token", lambda t: t[None, None])
    _reshaped(ledger, below, "positional_embedding", f"{TOWER}pos_embed", lambda t: t[None])
    _rename(ledger, below, OPEN_IMAGE)
    below = _below(ledger, plain, "text.") or _below(ledger, plain, "")
    for short, name in below.items():
        if match := re.fullmatch(_OPEN + rf"attn\.in_proj_{_LEAF}", short):
            target = f"{MODEL}encoder.layers.{match[1]}.self_attn."
            parts = zip("qkv", ledger.source[name].chunk(3))
            ledger.split(name, {f"{target}{one}_proj.{match[2]}": t.clone() for one, t in parts}, "queries, keys and values")
    _reshaped(ledger, below, "text_projection", f"{TEXT}projection.weight", lambda t: t.T)
    _rename(ledger, {s: n for s, n in below.items() if n in ledger.left}, OPEN_TEXT)


def _map_transformers(ledger: Ledger, plain: Mapping[str, str]) -> None:
    below = _below(ledger, plain, "vision_model.")
    _reshaped(ledger, below, "embeddings.class_embedding", f"{TOWER}cls_token", lambda t: t[None, None])
    _reshaped(ledger, below, "embeddings.position_embedding.weight", f"{TOWER}pos_embed", lambda t: t[None])
    for short in [short for short in below if re.fullmatch(_HF + rf"self_attn\.q_proj\.{_LEAF}", short)]:
        names = [below.pop(short.replace("q_proj", f"{one}_proj")) for one in "qkv"]
        layer, leaf = short.split(".")[2], short.rsplit(".", 1)[1]
        merged = torch.cat([ledger.source[name] for name in names])
        ledger.merge(names, f"{TOWER}blocks.{layer}.attn.qkv.{leaf}", merged, "queries, keys and values")
    for leaf in ("weight", "bias"):
        if (name := below.pop(f"head.attention.in_proj_{leaf}", None)) is not None:
            width = ledger.source[name].shape[0] // 3
            queries, others = ledger.source[name].split([width, 2 * width])
            pool = f"{TOWER}attn_pool."
            ledger.split(
                name, {f"{pool}q.{leaf}": queries.clone(), f"{pool}kv.{leaf}": others.clone()}, "queries; keys and values"
            )
    _rename(ledger, below, HF_IMAGE)
    for short, name in _below(ledger, plain, "text_model.").items():
        ledger.move(name, MODEL + short)
    for name in ledger.left:
        if plain[name] == "visual_projection.weight":
            _projected(ledger, name, ledger.source[name])
        elif plain[name] == "text_projection.weight":
            ledger.move(name, f"{TEXT}projection.weight")
