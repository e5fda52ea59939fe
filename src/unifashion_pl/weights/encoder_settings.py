"""What is no tensor of a published image–text encoder: architectures, sizes of pictures, how texts become ids; from the configs beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm

from unifashion_pl.backbone.published import WORDS, Clean, Encoder, ImageSide, TextSide, read_words
from unifashion_pl.backbone.vision import CLIP_MEAN, CLIP_STD
from unifashion_pl.reading import read_json
from unifashion_pl.weights.download import Download

OPEN_CLIP = "open_clip_config.json"
#: timm's names of the two kinds of ViTs, whose sizes are given.
VITS = {"siglip": "vit_base_patch16_siglip_224", "clip": "vit_base_patch16_clip_224"}
#: transformers' activations -> timm's.
ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
#: Epsilon of the layer norms of timm's ViTs.
EPSILON = {"siglip": 1e-6, "clip": 1e-5}
#: Of a tower; the largest published ones have some 60.
MOST_LAYERS = 256
#: What open_clip's towers may say without being another architecture.
IMAGE_FIELDS = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "timm_model_name", "timm_model_pretrained", "timm_pool",
                "timm_proj"}  # fmt: skip
TEXT_FIELDS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name", "tokenizer_kwargs", "no_causal_mask",
               "proj_bias", "pool_type", "norm_kwargs", "act_kwargs"}  # fmt: skip


def settings_of(source: Download, by_open_clip: bool) -> tuple[Encoder, Path]:
    """The description of a download, and its tokenizer's file.

    Raises:
        FileNotFoundError: no config or tokenizer beside the weights.
        ValueError: a config that is none, or of another architecture.
    """
    folder = source.path if source.path.is_dir() else source.path.parent
    words = folder / WORDS
    tokenizer = read_words(words)
    if by_open_clip:
        encoder = _of_open_clip(_config(folder, OPEN_CLIP), tokenizer, folder)
    else:
        encoder = _of_transformers(_config(folder, "config.json"), tokenizer, folder)
    _bounded({**encoder.image.arguments, **encoder.text.config}, folder)
    rows, known = int(encoder.text.config["vocab_size"]), tokenizer.get_vocab_size()
    if known > rows:
        raise ValueError(f"{words} has {known:,} words, the text tower {rows:,}: the tokenizer of another model")
    return encoder, words


def _config(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"{folder} has no {name}, which says the sizes and kinds of both towers: download it beside the weights"
        )
    return read_json(folder / name, dict[str, Any], "an encoder's config")


def _bounded(sizes: Mapping[str, Any], folder: Path) -> None:
    """Towers are built before they are compared with the weights, layer by layer.

    Raises:
        ValueError: more layers than any published tower has.
    """
    for name in ("depth", "num_hidden_layers"):
        layers = sizes.get(name, 1)
        if not isinstance(layers, int) or not 0 < layers <= MOST_LAYERS:
            raise ValueError(f"{folder}: a tower of {layers!r} layers ({name}), expected 1 to {MOST_LAYERS}")


def _only(fields: Mapping[str, Any], known: set[str], where: str) -> None:
    """
    Raises:
        ValueError: a field that makes it another architecture.
    """
    if other := {name: value for name, value in fields.items() if name not in known and value not in (None, False, 0)}:
        raise ValueError(f"{where} has {other}, which this import does not read: CLIP's and SigLIP's own towers are")


def _of_open_clip(content: Mapping[str, Any], tokenizer: Any, folder: Path) -> Encoder:
    model, pixels = content["model_cfg"], content.get("preprocess_cfg") or {}
    vision, text = model["vision_cfg"], model["text_cfg"]
    if isinstance(vision.get("layers"), list) or "hf_model_name" in text:
        raise ValueError(
            f"{OPEN_CLIP} describes a ResNet or a text tower of transformers: a ViT and open_clip's own text tower are read"
        )
    _only(vision, IMAGE_FIELDS, f"{OPEN_CLIP}: vision_cfg")
    _only(text, TEXT_FIELDS, f"{OPEN_CLIP}: text_cfg")
    kind = "siglip" if text.get("no_causal_mask") else "clip"
    if text.get("pool_type", "argmax") != {"siglip": "last", "clip": "argmax"}[kind]:
        raise ValueError(f"{OPEN_CLIP}: text_cfg pools by {text.get('pool_type')!r}, expected last (SigLIP) or argmax (CLIP)")
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    arguments: dict[str, Any]
    if (named := vision.get("timm_model_name")) is not None:
        if not timm.is_model(named) or (vision.get("timm_pool"), vision.get("timm_proj")) != ("map", "none"):
            raise ValueError(
                f"{OPEN_CLIP}: vision_cfg names {named!r} with pooling {vision.get('timm_pool')!r}, expected a SigLIP of timm"
            )
        name, arguments = str(named), {"num_classes": 0}
    else:
        name = VITS[kind]
        arguments = _vit(vision, vision["width"] // vision.get("head_width", 64), vision.get("mlp_ratio", 4.0), activation)
        arguments["num_classes"] = model["embed_dim"]
    mean, std = ((0.5,) * 3,) * 2 if named is not None else (CLIP_MEAN, CLIP_STD)
    side = ImageSide(name, arguments, vision["image_size"], tuple(pixels.get("mean", mean)), tuple(pixels.get("std", std)))
    own = "gelu_pytorch_tanh" if (text.get("act_kwargs") or {}).get("approximate") == "tanh" else activation
    width = text.get("width", 512)
    config = {"vocab_size": text.get("vocab_size", 49408), "hidden_size": width, "num_hidden_layers": text.get("layers", 12),
              "intermediate_size": int(width * text.get("mlp_ratio", 4.0)), "num_attention_heads": text.get("heads", 8),
              "max_position_embeddings": text.get("context_length", 77), "hidden_act": own,
              "layer_norm_eps": (text.get("norm_kwargs") or {}).get("eps", 1e-5)}  # fmt: skip
    clean: Clean = (text.get("tokenizer_kwargs") or {}).get("clean", "lower")
    return Encoder(model["embed_dim"], side, _text(kind, config, clean, tokenizer, folder))


def _vit(vision: Mapping[str, Any], heads: int, ratio: float, activation: str) -> dict[str, Any]:
    return {"patch_size": vision["patch_size"], "embed_dim": vision["width"], "depth": vision["layers"], "num_heads": heads, "mlp_ratio": ratio,
            "act_layer": ACTIVATIONS[activation]}  # fmt: skip


def _of_transformers(content: Mapping[str, Any], tokenizer: Any, folder: Path) -> Encoder:
    from transformers import CLIPConfig, SiglipConfig

    kind = content.get("model_type")
    if kind not in ("clip", "siglip"):
        more = " (SigLIP 2 of fixed sizes says siglip; those of any shape, siglip2, are not read)" if kind == "siglip2" else ""
        raise ValueError(f"config.json names the model type {kind!r}, expected clip or siglip{more}")
    full: Any = (CLIPConfig if kind == "clip" else SiglipConfig)(
        **{n: content[n] for n in content if n in ("vision_config", "text_config", "projection_dim")}
    )
    vision, text = full.vision_config, full.text_config
    if vision.layer_norm_eps != EPSILON[kind] or vision.hidden_act not in ACTIVATIONS:
        raise ValueError(
            f"config.json: the vision tower's layer_norm_eps is {vision.layer_norm_eps} and its activation {vision.hidden_act}, "
            f"expected {EPSILON[kind]} and one of {', '.join(ACTIVATIONS)}"
        )
    fields = {"patch_size": vision.patch_size, "width": vision.hidden_size, "layers": vision.num_hidden_layers}
    arguments = _vit(fields, vision.num_attention_heads, vision.intermediate_size / vision.hidden_size, vision.hidden_act)
    width = full.projection_dim if kind == "clip" else text.projection_size
    arguments["num_classes"] = width if kind == "clip" else 0
    shown = _beside(folder, "preprocessor_config.json")
    mean, std = (CLIP_MEAN, CLIP_STD) if kind == "clip" else ((0.5,) * 3,) * 2
    side = ImageSide(
        VITS[kind], arguments, vision.image_size, tuple(shown.get("image_mean", mean)), tuple(shown.get("image_std", std))
    )
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "hidden_act",
             "layer_norm_eps")  # fmt: skip
    gemma = any(word in str(_beside(folder, "tokenizer_config.json").get("tokenizer_class")) for word in ("Gemma", "Siglip2"))
    clean: Clean = "lower" if kind == "clip" or gemma else "canonicalize"
    return Encoder(width, side, _text(kind, {name: getattr(text, name) for name in names}, clean, tokenizer, folder))


def _beside(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name, dict[str, Any], "a file of the encoder") if (folder / name).is_file() else {}


def _text(kind: Any, config: dict[str, Any], clean: Clean, tokenizer: Any, folder: Path) -> TextSide:
    """The ids of a text's end, and of what stands behind it, by the tokenizer's own marks.

    Raises:
        ValueError: it has none, or puts no end behind a text.
    """
    marks = _beside(folder, "tokenizer_config.json")

    def id_of(mark: str) -> int | None:
        named = marks.get(mark)
        token = named.get("content") if isinstance(named, dict) else named
        id: int | None = None if token is None else tokenizer.token_to_id(token)
        return id

    end, pad = id_of("eos_token"), id_of("pad_token")
    if end is None or pad is None:
        raise ValueError(
            f"{folder}/tokenizer_config.json has to name eos_token and pad_token of the tokenizer: download it beside {WORDS}"
        )
    if (ids := tokenizer.encode("a").ids)[-1:] != [end] or (kind == "clip" and end != max(ids)):
        raise ValueError(
            f"{folder}/{WORDS} makes {ids} of 'a', expected the id {end} at its end: the tokenizer of another model"
        )
    return TextSide(kind, config, clean, pad, end)
