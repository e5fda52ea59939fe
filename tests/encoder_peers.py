"""Published image–text encoders, scaled down: folders as open_clip and transformers write them, and what their own classes make of images and ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peers
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

WORDS = ["a", "red", "blue", "dress", "shirt", "long", "photo", "of", "with", "and", "skirt", "black", "white"]
SIDE, PATCH, LENGTH = 32, 8, 12
#: open_clip's preprocessing of both kinds.
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


def t5_words(folder: Path) -> int:
    """A tokenizer as SigLIP's: words, an end that also fills up, no beginning."""
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{word: i for i, word in enumerate(WORDS, 3)}}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _saved(made, folder, {"eos_token": "</s>", "pad_token": {"content": "</s>"}, "tokenizer_class": "T5Tokenizer"})


def gemma_words(folder: Path) -> int:
    """A tokenizer as SigLIP 2's: pieces of any language, other characters as bytes."""
    pieces = ["▁", *(f"▁{word}" for word in WORDS), *"abcdefghijklmnopqrstuvwxyz", "▁rotes", "▁Kleid", "▁kleid", "▁платье"]
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocab = {token: i for i, token in enumerate([*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces])}
    scores = [(token, -20.0 if len(token) < 2 else -1.0) for token in vocab]
    made = Tokenizer(models.Unigram(scores, unk_id=3, byte_fallback=True))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return _saved(made, folder, {"eos_token": "<eos>", "pad_token": "<pad>", "tokenizer_class": "GemmaTokenizer"})


def clip_words(folder: Path) -> int:
    """A tokenizer as CLIP's: a beginning, and an end with the highest id."""
    end = len(WORDS) + 2
    vocab = {"<unk>": 0, "<|startoftext|>": 1, **{word: i for i, word in enumerate(WORDS, 2)}, "<|endoftext|>": end}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [("<|startoftext|>", 1), ("<|endoftext|>", end)]
    made.post_processor = processors.TemplateProcessing(single="<|startoftext|> $A <|endoftext|>", special_tokens=marks)
    return _saved(
        made, folder, {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}
    )


def _saved(made: Tokenizer, folder: Path, marks: dict[str, Any]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))
    return made.get_vocab_size()


def transformers_encoder(folder: Path, kind: str, words: Any, **sizes: Any) -> Any:
    """``SiglipModel`` or ``CLIPModel`` with random weights, saved as its publishers save it."""
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    sizes = {
        "hidden_size": 32,
        "layers": 2,
        "heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "length": LENGTH,
        "vocab_size": 0,
        "scale": 0.2,
        **sizes,
    }
    width = sizes["hidden_size"]
    common = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
    }
    vision = {**common, "image_size": sizes["image_size"], "patch_size": sizes["patch_size"]}
    rows = max(words(folder), sizes["vocab_size"])
    text = {**common, "vocab_size": rows, "max_position_embeddings": sizes["length"], "bos_token_id": None, "pad_token_id": 1}
    if kind == "siglip":
        model = SiglipModel(
            SiglipConfig(vision_config=vision, text_config={**text, "projection_size": width, "eos_token_id": 1})
        )
    else:
        text |= {"eos_token_id": len(WORDS) + 2}
        model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=width - 8))
    peers.randomise(model, scale=sizes["scale"]).logit_scale.data.fill_(3.0)
    model.save_pretrained(folder)
    return model


def open_clip_encoder(
    folder: Path, config: dict[str, Any], words: Any, file: str = "open_clip_model.safetensors", scale: float = 0.2
) -> Any:
    """open_clip's ``CLIP`` or ``CustomTextCLIP`` with random weights, in a folder as its hub ids are."""
    from open_clip.model import CLIP as OpenClip
    from open_clip.model import CustomTextCLIP

    config["text_cfg"]["vocab_size"] = max(config["text_cfg"].get("vocab_size", 0), words(folder))
    fields = {name: value for name, value in config.items() if name != "custom_text"}
    model = (CustomTextCLIP if config.get("custom_text") else OpenClip)(**fields)
    peers.randomise(model, scale=scale).logit_scale.data.fill_(3.0)
    pixels = HALF if config.get("custom_text") else CLIP
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pixels}))
    state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    if file.endswith(".bin"):
        torch.save(state, folder / file)
    else:
        save_file(state, folder / file)
    return model


def open_siglip_config(name: str, length: int = LENGTH, width: int = 32, layers: int = 2, side: int = SIDE) -> dict[str, Any]:
    """As of open_clip's ViT-B-16-SigLIP, smaller."""
    return {
        "embed_dim": width, "init_logit_bias": -10, "custom_text": True,
        "vision_cfg": {"image_size": side, "timm_model_name": name, "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {"context_length": length, "width": width, "heads": width // 16 if width < 64 else width // 64, "layers": layers, "no_causal_mask": True,
                     "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, "tokenizer_kwargs": {"clean": "canonicalize"},
                     "hf_tokenizer_name": "timm/ViT-B-16-SigLIP"},
    }  # fmt: skip


def open_clip_config() -> dict[str, Any]:
    """As of open_clip's ViT-B-16, smaller."""
    return {
        "embed_dim": 24,
        "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": PATCH},
        "text_cfg": {"context_length": LENGTH, "width": 32, "heads": 2, "layers": 2},
    }


def small_siglip() -> str:
    """A SigLIP ViT of a small size under a name that timm knows, so that open_clip can build it."""
    import timm
    from timm.models import register_model
    from timm.models.vision_transformer import _create_vision_transformer

    name = "vit_nano_patch8_siglip_32"
    if not timm.is_model(name):

        def vit_nano_patch8_siglip_32(pretrained: bool = False, **kwargs: Any) -> Any:
            sizes = {
                "patch_size": 8,
                "embed_dim": 32,
                "depth": 2,
                "num_heads": 2,
                "class_token": False,
                "global_pool": "map",
                "img_size": 32,
            }
            return _create_vision_transformer("vit_base_patch16_siglip_224", pretrained=False, **dict(sizes, **kwargs))

        vit_nano_patch8_siglip_32.__module__ = "timm.models.vision_transformer"
        register_model(vit_nano_patch8_siglip_32)
    return name


@torch.no_grad()
def published(model: Any, images: Tensor, ids: Tensor, mean: Any, std: Any) -> tuple[Tensor, Tensor]:
    """Unit vectors of uint8 images and of ids by the peer's own class, pixels normalised as its preprocessing does."""
    columns = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    middle, spread = columns
    pixels = (images.float() / 255 - middle) / spread
    if hasattr(model, "encode_image"):
        return model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)
    out = (model.get_image_features(pixel_values=pixels), model.get_text_features(input_ids=ids))
    vectors = [one if isinstance(one, Tensor) else one.pooler_output for one in out]
    return tuple(torch.nn.functional.normalize(one, dim=-1) for one in vectors)  # type: ignore[return-value]
