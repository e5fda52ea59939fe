"""How the shipped toy Stable Diffusion was made: ``python checkpoints/train_tiny_sd.py --out FOLDER``.

A small U-Net and its text encoder learn text -> image on wardrobes of other seeds than the demo's, in the latents of the shipped tiny
VAE (see ``train_tiny_vae``). The tiny model starts from them as the paper's model starts from Stable Diffusion.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from unifashion_pl.data.transforms import PixelTransform
from unifashion_pl.generation import Denoiser, ImageVAE, PromptEncoder
from unifashion_pl.tasks import DiffusionModule
from unifashion_pl.wardrobe.products import make_product
from unifashion_pl.wardrobe.render import render_product
from unifashion_pl.wardrobe.texts import describe

SIZE = 64
STYLES = ("fashion200k", "fashiongen", "fashioniq")
VIEWS = ("front", "worn", "hanger")
UNET: dict[str, Any] = {
    "sample_size": 16,
    "layers_per_block": 1,
    "block_out_channels": [32, 64, 96],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 96,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
}


def draw(seed: int, index: int) -> tuple[list[Tensor], list[str]]:
    """Three views (3, 64, 64) uint8 of a product and its captions in three styles."""
    product = make_product(seed, index)
    fit = PixelTransform((SIZE, SIZE))
    pictures = [fit(render_product(product, view, 128, f"{seed}/sd/{index}")) for view in VIEWS]
    return pictures, [describe(product, style, random.Random(f"{seed}/{index}/{style}")) for style in STYLES]


def _draw(job: tuple[int, int]) -> tuple[list[Tensor], list[str]]:
    torch.set_num_threads(1)
    return draw(*job)


@torch.no_grad()
def load(products: int, seed: int, vae: ImageVAE) -> tuple[Tensor, list[list[str]]]:
    """Latents (N, 3 views, 4, 16, 16) and captions of N products."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [(seed, index) for index in range(products)]
        drawn = list(tqdm(pool.map(_draw, jobs, chunksize=64), total=products, desc="drawing", unit="product"))
    pictures = torch.stack([torch.stack(p) for p, _ in drawn])
    parts = [vae.encode(part.flatten(0, 1)) for part in pictures.split(64)]
    return torch.cat(parts).unflatten(0, (products, len(VIEWS))), [texts for _, texts in drawn]


def build() -> DiffusionModule:
    """The head that reads text alone, with trainable U-Net and text encoder."""
    torch.manual_seed(0)
    return DiffusionModule(
        denoiser=Denoiser(config=UNET),
        vae=ImageVAE("tiny"),
        text_encoder=PromptEncoder(config=TEXT_ENCODER),
        context="text",
        drop_context=0.1,
        size=(SIZE, SIZE),
    )


def train(head: DiffusionModule, latents: Tensor, texts: list[list[str]], minutes: float, batch: int, lr: float) -> None:
    """L_q2I with a cosine schedule over wall-clock time; the head ends with the moving average of its weights."""
    head.train()
    parameters = [p for p in head.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    rng = random.Random(0)
    start, seconds, steps, running = time.monotonic(), 60 * minutes, 0, 0.0
    with tqdm(total=round(seconds), unit="s", mininterval=5) as bar:
        while (elapsed := time.monotonic() - start) < seconds:
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (steps + 1) / 100) * (0.5 * (1 + math.cos(math.pi * elapsed / seconds)) + 0.01)
            rows = torch.randint(len(latents), (batch,))
            views = torch.randint(len(VIEWS), (batch,))
            loss = head.latent_loss(None, [rng.choice(texts[i]) for i in rows.tolist()], latents[rows, views])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            steps += 1
            keep = min(0.998, (1 + steps) / (10 + steps))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - keep)
            running += (loss.item() - running) * max(0.01, 1 / steps)
            bar.n = min(bar.total, round(elapsed))
            bar.set_postfix(steps=steps, loss=f"{running:.4f}")
    with torch.no_grad():
        for parameter, value in zip(parameters, average):
            parameter.copy_(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="unet/ and text_encoder/ come into it")
    parser.add_argument("--products", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=1000, help="of the wardrobe; the demo's is 0")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    head = build()
    latents, texts = load(args.products, args.seed, head.vae)
    train(head, latents, texts, args.minutes, args.batch, args.lr)
    head.denoiser.unet.half().save_pretrained(args.out / "unet")
    assert head.text_encoder is not None
    head.text_encoder.model.half().save_pretrained(args.out / "text_encoder")
    print(f"U-Net and text encoder -> {args.out}")


if __name__ == "__main__":
    main()
