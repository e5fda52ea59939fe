"""How the shipped tiny VAE was made: ``python checkpoints/train_tiny_vae.py --wardrobe FOLDER --out FOLDER``.

A small AutoencoderTiny (the architecture of TAESD, which does without normalisation layers and so learns colours within minutes; 4 latent
channels, 4x down-sampling) is trained on training pictures of the procedural wardrobe at 64 x 64; the scaling factor is measured from
its latents, as Stable Diffusion's 0.18215 was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from PIL import Image
from torch import Tensor
from tqdm import tqdm

NOISE, SPREAD = 0.05, 3.0
CONFIG = {
    "encoder_block_out_channels": [32, 32, 32],
    "decoder_block_out_channels": [32, 32, 32],
    "num_encoder_blocks": [1, 2, 3],
    "num_decoder_blocks": [3, 2, 1],
    "latent_channels": 4,
    "upsampling_scaling_factor": 2,
    "scaling_factor": 1.0,
}


def load_pictures(wardrobe: Path, size: int) -> Tensor:
    """All FashionGen training pictures as uint8 (N, 3, size, size)."""
    with h5py.File(wardrobe / "fashiongen" / "fashiongen_256_256_train.h5") as file:
        arrays = [np.asarray(Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC)) for x in file["input_image"]]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def start_as_thumbnail(model: Any) -> None:
    """Let three channels carry the colours through the whole network: it starts by shrinking and enlarging, and learns the rest.

    Without this a network of this size spends its first quarter of an hour on the CPU painting everything grey.
    """
    for half in (model.encoder.layers, model.decoder.layers):
        convs = [layer for layer in half if isinstance(layer, torch.nn.Conv2d)]
        for layer in half:
            if hasattr(layer, "fuse"):
                layer.conv[-1].weight[:3] = 0
                layer.conv[-1].bias[:3] = 0
        for conv in convs:
            conv.weight[:3] = 0
            if conv.bias is not None:
                conv.bias[:3] = 0
            for colour in range(3):
                if conv.stride == (2, 2):
                    conv.weight[colour, colour, 1:, 1:] = 0.25
                else:
                    conv.weight[colour, colour, 1, 1] = 1
    last, first = model.encoder.layers[-1], model.decoder.layers[0]
    last.weight[:3] *= SPREAD
    last.bias[:3] = -SPREAD / 2
    first.weight[:3] /= SPREAD
    first.bias[:3] = 0.5


def train(pictures: Tensor, minutes: float, batch: int, lr: float) -> Any:
    """L1 + MSE through slightly noisy latents of about unit size, with a cosine schedule over wall-clock time."""
    torch.manual_seed(0)
    model: Any = AutoencoderTiny(**CONFIG)
    start_as_thumbnail(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    start, seconds, steps, running = time.monotonic(), 60 * minutes, 0, 0.0
    with tqdm(total=round(seconds), unit="s", mininterval=5) as bar:
        while (elapsed := time.monotonic() - start) < seconds:
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (steps + 1) / 50) * 0.5 * (1 + math.cos(math.pi * elapsed / seconds)) + 1e-6
            x = pictures[torch.randint(len(pictures), (batch,))].float() / 127.5 - 1
            latents = model.encode(x).latents
            out = model.decode(latents + NOISE * torch.randn_like(latents)).sample
            loss = F.l1_loss(out, x) + F.mse_loss(out, x) + 1e-3 * latents.square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps += 1
            running += (loss.item() - running) * max(0.02, 1 / steps)
            bar.n = min(bar.total, round(elapsed))
            bar.set_postfix(steps=steps, loss=f"{running:.4f}")
    return model.eval()


@torch.no_grad()
def finish(model: Any, pictures: Tensor) -> float:
    """Set the scaling factor to 1 / std of the latents; return the PSNR of the reconstructions in dB."""
    x = pictures[:256].float() / 127.5 - 1
    latents = model.encode(x).latents
    model.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
    error = F.mse_loss(model.decode(latents).sample.clamp(-1, 1), x)
    return 10 * math.log10(4 / float(error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--wardrobe", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    pictures = load_pictures(args.wardrobe, 64)
    model = train(pictures, args.minutes, args.batch, args.lr)
    psnr = finish(model, pictures)
    count = sum(p.numel() for p in model.parameters())
    model.half().save_pretrained(args.out)
    config = json.loads((args.out / "config.json").read_text())
    config.pop("block_out_channels", None)  # AutoencoderTiny writes it and warns when it reads it
    (args.out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    print(
        f"{count:,} parameters, scaling factor {model.config.scaling_factor}, PSNR {psnr:.1f} dB on training pictures -> {args.out}"
    )


if __name__ == "__main__":
    main()
