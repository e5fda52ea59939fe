"""Small real parts that the tests of several rooms share, never stand-ins."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
import yaml

from unifashion_pl import UniFashionModule
from unifashion_pl.backbone import QFormerBackbone, VisionTower
from unifashion_pl.backbone.tokenizer import load_tokenizer
from unifashion_pl.data.samples import PairBatch, TripletBatch, TryOnBatch
from unifashion_pl.generation import Denoiser, ImageVAE, PromptEncoder, UNetLora
from unifashion_pl.tasks import DiffusionModule, EditSettings

TEXTS = ["a long red dress", "a blue shirt with buttons", "plain black skirt", "green top with stripes"]

#: Fields of UNet2DConditionModel and of CLIPTextConfig: two levels, a context 24 wide, prompts of 12 tokens.
UNET: dict[str, object] = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
CLIP_TEXT: dict[str, int] = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 12,
}


def small_backbone(seed: int = 0, **kwargs: object) -> QFormerBackbone:
    torch.manual_seed(seed)
    tower = VisionTower(
        "resnet10t", image_size=32, timm_kwargs={"channels": (8, 8, 16, 16), "stem_width": 8, "output_stride": 8}
    )
    settings: dict[str, object] = {
        "num_queries": 4,
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 2,
        "intermediate_size": 64,
        **kwargs,
    }
    return QFormerBackbone(tower, **settings)  # type: ignore[arg-type]


def images(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def pair_batch(n: int = 4, **changes: object) -> PairBatch:
    fields: dict[str, object] = {
        "keys": [f"k{i}" for i in range(n)],
        "images": images(n),
        "texts": TEXTS[:n],
        "captions": [t.capitalize() + "." for t in TEXTS[:n]],
        "styles": ["fashiongen", "fashion200k", "fashioniq", "fashiongen"][:n],
        "products": torch.arange(n),
        "pixels": images(n, 64, seed=1),
        "categories": ["dress"] * n,
        "subcategories": ["dress"] * n,
        "dataset": "fashiongen/train",
        **changes,
    }
    return PairBatch(**fields)  # type: ignore[arg-type]


def triplet_batch(n: int = 4, **changes: object) -> TripletBatch:
    fields: dict[str, object] = {
        "keys": [f"t{i}" for i in range(n)],
        "references": images(n),
        "targets": images(n, seed=2),
        "texts": TEXTS[:n],
        "captions": [t.capitalize() + "." for t in TEXTS[:n]],
        "styles": ["fashioniq"] * n,
        "target_ids": torch.arange(n),
        "pixels": images(n, 64, seed=1),
        "categories": ["dress"] * n,
        "dataset": "fashioniq/train",
        **changes,
    }
    return TripletBatch(**fields)  # type: ignore[arg-type]


def tryon_batch(n: int = 4, height: int = 32, width: int = 24, **changes: object) -> TryOnBatch:
    """Noise for pictures; the mask is the middle of the picture."""
    pictures = [images(n, height, seed)[..., :width] for seed in range(5)]
    masks = torch.zeros(n, 1, height, width, dtype=torch.bool)
    masks[..., height // 4 : height // 2, width // 4 : width // 2] = True
    fields: dict[str, object] = {
        "keys": [f"v{i}" for i in range(n)],
        "garments": images(n),
        "pixels": pictures[0],
        "masks": masks,
        "pose": pictures[1],
        "garment_pixels": pictures[2],
        "sketches": pictures[3],
        "texts": TEXTS[:n],
        "paired": True,
        "dataset": "vitonhd/train",
        "worn": masks,
        "shapes": masks.roll(2, -1),
        **changes,
    }
    return TryOnBatch(**fields)  # type: ignore[arg-type]


VAE: dict[str, object] = {
    "latent_channels": 4,
    "block_out_channels": [8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": 0.5,
}


def save_stable_diffusion(folder: Path) -> Path:
    """A Stable Diffusion pipeline of diffusers with random weights and a tokenizer of single letters; its VAE shrinks by 4."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from unifashion_pl.generation import ImageVAE

    torch.manual_seed(0)
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    ids = {"vocab_size": len(vocabulary), "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    StableDiffusionPipeline(
        vae=ImageVAE(config=VAE).model,
        text_encoder=CLIPTextModel(CLIPTextConfig(**CLIP_TEXT, **ids)),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CLIP_TEXT["max_position_embeddings"]),
        unet=UNet2DConditionModel(**UNET),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def painter(channels: int = 13, **parts: Any) -> UniFashionModule:
    """Paints persons 32 × 24 if it has 13 channels; the garment branch is open."""
    torch.manual_seed(0)
    denoiser = Denoiser(config=UNET, in_channels=channels, garment="branch" if channels == 13 else None)
    with torch.no_grad():
        for conv in (denoiser.garment.hint, *denoiser.garment.zero_convs) if denoiser.garment is not None else ():
            conv.weight.normal_(std=0.3)  # type: ignore[union-attr, operator]
    head = DiffusionModule(
        denoiser=denoiser, vae=ImageVAE("tiny"), text_encoder=PromptEncoder(config=CLIP_TEXT), query_width=32, size=(32, 24)
    )
    return UniFashionModule(small_backbone(), diffusion=head, policy="editing_control", **parts).eval()


def editor(policy: str = "editing_control", garment: Any = "branch", **changes: Any) -> UniFashionModule:
    """To be trained on persons 32 × 24; the garment branch changes nothing yet."""
    torch.manual_seed(0)
    lora = UNetLora(rank=2, alpha=2) if policy == "lora" else None
    denoiser = Denoiser(config=UNET, in_channels=13, garment=garment, lora=lora)
    settings = EditSettings(tasks={"tryon": 1, "design": 1, "text": 1})
    head = DiffusionModule(
        denoiser=denoiser, vae=ImageVAE("tiny"), text_encoder=PromptEncoder(config=CLIP_TEXT), query_width=32, size=(32, 24),
        editing=settings,
    )  # fmt: skip
    return UniFashionModule(small_backbone(), diffusion=head, policy=policy, **changes)


def opened(model: UniFashionModule) -> UniFashionModule:
    """With a garment branch that changes something, as after training."""
    garment = model.diffusion_head.denoiser.garment  # type: ignore[union-attr]
    if garment is not None:
        with torch.no_grad():
            for conv in (garment.hint, *garment.zero_convs):
                conv.weight.normal_(std=0.3)  # type: ignore[union-attr, operator]
    return model


def tiny(**overrides: object) -> UniFashionModule:
    """The shipped config of phase 1, with overrides."""
    torch.manual_seed(0)
    return UniFashionModule.from_config("phase1.yaml", {"policy": "phase1_joint", **overrides})


def streams() -> dict[str, Any]:
    """A batch of pairs and one of triplets in the sizes of :func:`tiny`."""
    return {
        "pairs": pair_batch(images=images(4, 64)),
        "triplets": triplet_batch(references=images(4, 64), targets=images(4, 64, 3)),
    }


def saved_retriever(folder: Path) -> Path:
    """A retrieval model of one layer, random, its tokenizer beside it, saved as a folder below ``folder``."""
    load_tokenizer("tiny").save_pretrained(folder / "words")
    tower = {"name": "resnet10t", "image_size": 32, "timm_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8}}
    sizes = {
        "hidden_size": 24,
        "num_layers": 1,
        "cross_attention_frequency": 1,
        "num_heads": 3,
        "intermediate_size": 40,
        "num_queries": 5,
        "max_text_tokens": 12,
        "appearance": 6,
    }
    backbone = {"vision": tower, "tokenizer": str(folder / "words"), "initializer_range": 0.3, **sizes}
    section = {"backbone": backbone, "retrieval": {"hidden_size": 24, "embed_dim": 16}, "policy": "phase1_retrieval"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": section}))
    torch.manual_seed(0)
    model = UniFashionModule.from_config(folder / "config.yaml")
    with torch.no_grad():
        model.backbone.target_query_tokens.add_(torch.randn_like(model.backbone.target_query_tokens))
        model.backbone.query_tokens.mul_(50)
        model.backbone.appearance.learn(torch.randn(20, 16), torch.randn(2, 20, 16))  # type: ignore[union-attr]
    model.learned = frozenset({"retrieval", "composed"})
    return model.save_pretrained(folder / "model")
