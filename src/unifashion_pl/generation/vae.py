"""The image autoencoder: frozen, between uint8 pictures and scaled latents."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from unifashion_pl.generation.denoiser import load_part


class ImageVAE(nn.Module):
    """An ``AutoencoderKL`` that never trains here.

    Args:
        source: folder or hub id of a VAE (the ``vae`` subfolder of a pipeline is found), or ``tiny`` (shipped, trained on the toy
            wardrobe, 4x down-sampling).
        config: arguments of ``AutoencoderKL`` for random weights, instead of a source.
    """

    def __init__(self, source: str | None = "tiny", *, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        if config is not None:
            self.model: Any = AutoencoderKL(**config)
        elif source == "tiny":
            with as_file(files("unifashion_pl.configs") / "tiny_vae") as folder:
                self.model = AutoencoderKL.from_pretrained(str(folder))
        else:
            self.model = load_part(AutoencoderKL, source, "vae")
        self.model.float()
        self.requires_grad_(False).eval()

    @property
    def factor(self) -> int:
        """Pixels per latent position: 8 for Stable Diffusion."""
        return 2 ** (len(self.model.config.block_out_channels) - 1)

    def train(self, mode: bool = True) -> ImageVAE:
        return super().train(False)

    @torch.no_grad()
    def encode(self, pixels: Tensor, *, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """uint8 pictures (B, 3, H, W) -> scaled latents (B, 4, H/f, W/f).

        Args:
            sample: draw from the posterior (training); else its mode, so that equal inputs give equal latents.

        Raises:
            ValueError: sides that are no multiple of the down-sampling factor, or pictures that are not uint8.
        """
        if pixels.dtype != torch.uint8:
            raise ValueError(f"pictures are {pixels.dtype}, expected torch.uint8 in 0..255")
        height, width = pixels.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(f"pictures are {height} x {width}, expected sides that are multiples of {self.factor}")
        posterior = self.model.encode(pixels.to(self.dtype) / 127.5 - 1).latent_dist
        latents = posterior.sample(generator) if sample else posterior.mode()
        return latents * self.model.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, 4, h, w) -> uint8 pictures (B, 3, h·f, w·f)."""
        pixels = self.model.decode(latents.to(self.dtype) / self.model.config.scaling_factor).sample
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype
