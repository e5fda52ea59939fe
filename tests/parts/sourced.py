"""A small model each of whose parts was started from files elsewhere, as a user's is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import peers
import timm
import torch
import yaml
from small import UNET, save_stable_diffusion
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from unifashion_pl import UniFashionModule
from unifashion_pl.backbone.tokenizer import load_tokenizer
from unifashion_pl.tasks.language_model import load_llm_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 64}
TOWER = {"channels": [8, 8, 16, 16], "stem_width": 8}


def part(path: str, /, **init_args: Any) -> dict[str, Any]:
    return {"class_path": f"unifashion_pl.{path}", "init_args": init_args}


def write_sources(folder: Path) -> None:
    """``bert``, ``llm``, ``sd`` (a pipeline) and ``tower.pth``."""
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t", num_classes=0, **TOWER).state_dict(), folder / "tower.pth")
    words = load_tokenizer("tiny")
    words.save_pretrained(folder / "bert")
    BertModel(BertConfig(vocab_size=len(words) - 1, num_hidden_layers=2, num_attention_heads=2, **SIZES)).save_pretrained(
        folder / "bert"
    )
    tokenizer = load_llm_tokenizer("tiny")
    tokenizer.save_pretrained(folder / "llm")
    LlamaForCausalLM(LlamaConfig(**peers.llama_config(len(tokenizer)))).save_pretrained(folder / "llm")
    save_stable_diffusion(folder / "sd")


def sourced_model(folder: Path, **changes: Any) -> UniFashionModule:
    """The model, built from what lies in ``folder``."""
    write_sources(folder)
    tower = part("backbone.VisionTower", name="resnet10t", image_size=32, timm_kwargs=TOWER, weights=str(folder / "tower.pth"))
    section = {
        "backbone": part(
            "backbone.QFormerBackbone",
            vision=tower,
            tokenizer=str(folder / "bert"),
            bert=str(folder / "bert"),
            num_queries=4,
            num_layers=2,
            num_heads=2,
            **SIZES,
        ),
        "retrieval": part("tasks.RetrievalModule", hidden_size=32, embed_dim=16),
        "caption": part(
            "tasks.CaptionModule",
            query_width=32,
            language_model=part("tasks.LanguageModel", source=str(folder / "llm"), lora={"rank": 2, "alpha": 2}),
        ),
        "diffusion": part(
            "tasks.DiffusionModule",
            denoiser=part("generation.Denoiser", source=str(folder / "sd"), garment="branch", in_channels=13),
            vae=part("generation.ImageVAE", source=str(folder / "sd")),
            text_encoder=part("generation.PromptEncoder", source=str(folder / "sd")),
            query_width=32,
            context_width=UNET["cross_attention_dim"],
            size=[32, 32],
        ),
        "policy": "phase1_joint",
        **changes,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": section}))
    return UniFashionModule.from_config(folder / "model.yaml").eval()


def write_ckpt(model: UniFashionModule, path: Path) -> Path:
    """As the trainer writes it."""
    trainer = L.Trainer(max_steps=0, logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=path.parent)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path
