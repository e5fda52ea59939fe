"""Counting parameters without memory: models built on the meta device, where tensors have shapes and nothing else."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub import constants

from unifashion_pl.configs import merged
from unifashion_pl.freezing import counts
from unifashion_pl.module import UniFashionModule

_SD1_UNET = {"sample_size": 64, "cross_attention_dim": 768}
_SD_VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}
#: Published source -> part of a model that names it -> fields of its config that say its size.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "lmsys/vicuna-7b-v1.5": {
        "language_model": {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        }
    },
    "Qwen/Qwen2.5-1.5B-Instruct": {
        "language_model": {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        }
    },
    "CompVis/stable-diffusion-v1-4": {
        "denoiser": _SD1_UNET,
        "vae": _SD_VAE,
        "text_encoder": {
            "vocab_size": 49408,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
    },
    "weights/pbe": {"denoiser": _SD1_UNET},
    "weights/stableviton": {"denoiser": _SD1_UNET},
    "common-canvas/CommonCanvas-S-C": {
        "denoiser": {
            "sample_size": 64,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        "vae": _SD_VAE,
        "text_encoder": {
            "vocab_size": 49408,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
        },
    },
}
#: Sources with BERT's vocabulary, to which one token is added.
BERTS, BERT_VOCABULARY = ("google-bert/bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"), 30523

#: Stages of training at the paper's size, as the README's table lists them.
STAGES: dict[str, tuple[str, ...]] = {
    "1 representation": ("phase1.yaml", "paper.yaml", "paper-representation.yaml"),
    "1 LLM": ("phase1.yaml", "paper.yaml", "paper-llm.yaml"),
    "1 diffusion": ("phase1.yaml", "paper.yaml", "paper-diffusion.yaml"),
    "2 composed": ("phase2.yaml", "paper.yaml"),
    "2 try-on": ("tryon.yaml", "paper.yaml", "paper-tryon.yaml"),
    "2 design": ("design.yaml", "paper.yaml", "paper-design.yaml"),
}


def with_random_weights(configs: Sequence[str]) -> list[str]:
    """Configs, and where they name published weights one more over them, by which random ones of the same shapes take their places.

    Nothing is downloaded for it: for counting parameters, and for figures of speed and memory. Such a model describes nothing.
    """
    model = merged(configs).get("model")
    random = _random("model", model) if isinstance(model, dict) else {}
    over = json.dumps({"model": {**random, "init_from": None, "leave_out": []}})
    return [*configs, over] if random else [*configs]


def _random(place: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments by which a part, and the parts in it, load nothing that is published."""
    found: dict[str, Any] = {}
    for name, part in arguments.items():
        if isinstance(part, dict) and "class_path" in part and (inner := _random(name, part.get("init_args") or {})):
            found[name] = {"class_path": part["class_path"], "init_args": inner}
    if place == "vision" and arguments.get("weights", "none") != "none":
        found["weights"] = "none"
    if arguments.get("tokenizer") in BERTS:
        found |= {"tokenizer": "tiny", "vocab_size": BERT_VOCABULARY}
    if arguments.get("bert") in BERTS:
        found["bert"] = None
    if fields := SIZES.get(str(arguments.get("source")), {}).get(place):
        found["config"] = fields
        if place != "vae":
            found["source"] = "tiny" if place == "language_model" else None
    if "text_encoder" in found:
        found["null_start"] = "random"  # there is no tokenizer for an empty prompt
    return found


def shapes_only(configs: Sequence[str]) -> UniFashionModule:
    """The model of one or more configs, on the meta device where they name published weights, which are neither needed nor looked for.

    Raises:
        ValueError, FileNotFoundError: as :meth:`~unifashion_pl.UniFashionModule.from_config`.
        OSError: the configs name other published parts, which are not here.
    """
    chain = with_random_weights(configs)
    large = len(chain) > len(configs)
    with offline(), torch.device("meta" if large else "cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return UniFashionModule.from_config(chain, {"init_from": None, "leave_out": []})


@contextmanager
def offline() -> Iterator[None]:
    """Nothing is asked of the hub: what its cache does not have is absent at once, not after retries."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def stage_table(stages: Mapping[str, Sequence[str]] | None = None) -> str:
    """Markdown: per part its size, and in which stages it trains (T), is frozen (.) or is not built (-)."""
    stages = STAGES if stages is None else stages
    found = {stage: counts(shapes_only(configs)) for stage, configs in stages.items()}
    parts = list(dict.fromkeys(part for stage in reversed(found.values()) for part in stage))
    lines = [f"| part | parameters | {' | '.join(stages)} |", f"|---|---:|{'---|' * len(stages)}"]
    for part in parts:
        size = max(sum(stage[part]) for stage in found.values() if part in stage)
        marks = [mark(*stage[part]) if part in stage else "-" for stage in found.values()]
        lines.append(f"| {part} | {size:,} | {' | '.join(marks)} |")
    for title, which in (("trainable", 0), ("frozen", 1)):
        sums = [f"{sum(pair[which] for pair in stage.values()):,}" for stage in found.values()]
        lines.append(f"| {title} | | {' | '.join(sums)} |")
    return "\n".join(lines)


def mark(trains: int, frozen: int) -> str:
    """``T``, ``.`` or, where only some of a part trains, its share.

    >>> mark(5, 0), mark(0, 5), mark(1, 3), mark(1, 999)
    ('T', '.', '25 %', '< 1 %')
    """
    if not frozen or not trains:
        return "T" if trains else "."
    share = 100 * trains / (trains + frozen)
    return f"{share:.0f} %" if share >= 1 else "< 1 %"
