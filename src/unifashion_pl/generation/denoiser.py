"""The denoising U-Net and its input channels.

Channels (B, 13, h, w), h = H/8 for Stable Diffusion's VAE: 0-3 noisy latents, 4-7 latents of the person without the garment, 8 mask
(1 = keep), 9-12 latents of the pose picture. Absent conditions are zeros. A 4-channel U-Net takes the noisy latents alone. The
garment branch (a second encoder with nine zero-initialised cross-attentions) is a later capability; ``garment.*`` is its place.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

PLAIN, CONDITIONED = 4, 13


class Denoiser(nn.Module):
    """Predicts the noise eps.

    Args:
        source: folder or hub id of a diffusers U-Net (its ``unet`` subfolder is found), or None with a ``config``.
        config: arguments of ``UNet2DConditionModel`` for random weights.

    Raises:
        ValueError: neither or both of source and config; a U-Net with neither 4 nor 13 input channels.
    """

    def __init__(self, *, source: str | None = None, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        if (source is None) == (config is None):
            raise ValueError("give a Denoiser either source (folder or hub id) or config (arguments of UNet2DConditionModel)")
        self.unet: Any = UNet2DConditionModel(**config) if config is not None else load_part(UNet2DConditionModel, source, "unet")
        self.channels = int(self.unet.config.in_channels)
        if self.channels not in (PLAIN, CONDITIONED):
            raise ValueError(f"the U-Net has {self.channels} input channels, expected {PLAIN} or {CONDITIONED}")

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        context: Tensor,
        *,
        person: Tensor | None = None,
        keep: Tensor | None = None,
        pose: Tensor | None = None,
    ) -> Tensor:
        """eps (B, 4, h, w).

        Args:
            latents: (B, 4, h, w) noisy. timesteps: (B,) int64. context: (B, N, C).
            person, pose: (B, 4, h, w) latents. keep: (B, 1, h, w), 1 = keep, 0 = repaint.

        Raises:
            ValueError: conditions for a U-Net without channels for them.
        """
        given = [name for name, value in (("person", person), ("keep", keep), ("pose", pose)) if value is not None]
        if self.channels == PLAIN:
            if given:
                raise ValueError(f"this U-Net has 4 input channels and cannot take {', '.join(given)}: build it with in_channels=13")
            return self.unet(latents, timesteps, context).sample
        zero = torch.zeros_like(latents)
        parts = (latents, zero if person is None else person, zero[:, :1] if keep is None else keep, zero if pose is None else pose)
        return self.unet(torch.cat(parts, 1), timesteps, context).sample


def load_part(cls: Any, source: str | None, subfolder: str) -> Any:
    """A diffusers or transformers model from a folder or hub id, with or without the pipeline's subfolder."""
    from pathlib import Path

    path = Path(str(source))
    inside = (path / subfolder).is_dir() or not path.exists()
    return cls.from_pretrained(str(source), **({"subfolder": subfolder} if inside else {}))
