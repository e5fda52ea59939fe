"""How the shipped tiny VAE was made: ``python -m unifashion_pl.weights.train_tiny_vae --wardrobe FOLDER --out FOLDER``.

A small AutoencoderKL (4 latent channels, 4x down-sampling) is trained on training pictures of the procedural wardrobe at 64 x 64; the
scaling factor is measured from its latents, as Stable Diffusion's 0.18215 was.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from tqdm import tqdm

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [24, 48, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "sample_size": 64,
}


def load_pictures(wardrobe: Path, size: int) -> Tensor:
    """All FashionGen training pictures as uint8 (N, 3, size, size)."""
    with h5py.File(wardrobe / "fashiongen" / "fashiongen_256_256_train.h5") as file:
        arrays = [np.asarray(Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC)) for x in file["input_image"]]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def train(pictures: Tensor, minutes: float, batch: int, lr: float) -> Any:
    """L1 + MSE + 1e-6 KL with a cosine schedule over wall-clock time."""
    torch.manual_seed(0)
    model: Any = AutoencoderKL(**CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    start, seconds = time.monotonic(), 60 * minutes
    with tqdm(total=round(seconds), unit="s") as bar:
        while (elapsed := time.monotonic() - start) < seconds:
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * elapsed / seconds)) + 1e-6
            x = pictures[torch.randint(len(pictures), (batch,))].float() / 127.5 - 1
            posterior = model.encode(x).latent_dist
            out = model.decode(posterior.sample()).sample
            loss = F.l1_loss(out, x) + F.mse_loss(out, x) + 1e-6 * posterior.kl().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            bar.n = min(bar.total, round(elapsed))
            bar.set_postfix(loss=f"{loss.item():.4f}")
    return model.eval()


@torch.no_grad()
def finish(model: Any, pictures: Tensor) -> float:
    """Set the scaling factor to 1 / std of the latents; return the PSNR of the reconstructions in dB."""
    x = pictures[:256].float() / 127.5 - 1
    latents = model.encode(x).latent_dist.mode()
    model.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
    error = F.mse_loss(model.decode(latents).sample.clamp(-1, 1), x)
    return 10 * math.log10(4 / float(error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wardrobe", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    pictures = load_pictures(args.wardrobe, 64)
    model = train(pictures, args.minutes, args.batch, args.lr)
    psnr = finish(model, pictures)
    count = sum(p.numel() for p in model.parameters())
    model.half().save_pretrained(args.out)
    print(
        f"{count:,} parameters, scaling factor {model.config.scaling_factor}, PSNR {psnr:.1f} dB on training pictures -> {args.out}"
    )


if __name__ == "__main__":
    main()
