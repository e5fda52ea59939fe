"""The U-Net that predicts noise, and the assembly of its input channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unifashion_pl.weights.files import load_part

#: Fields in which Stable Diffusion 1.x's U-Net differs from the defaults of diffusers: 859,520,964 parameters with 4 channels.
SD1_UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}

LATENT_CHANNELS = 4
CHANNELS = (4, 13)


class Denoiser(nn.Module):
    """A U-Net over latents with 4 or 13 input channels. With 13 it also reads what is to be kept of a person:

    ======== ============================================================ ============
    channels content                                                       absent
    ======== ============================================================ ============
    0-3      noisy latents z_t                                             never
    4-7      latents of the person with the repaint region greyed          zeros
    8        mask, **1 = keep, 0 = repaint** (users: the opposite)         zeros
    9-12     latents of the pose image                                     zeros
    ======== ============================================================ ============

    The first nine are Paint-by-Example's, in its order. The garment branch of the paper's Fig. 3 is not part of this class yet.

    Args:
        source: hub id of a pipeline, folder of one or of a U-Net, or ``tiny`` (shipped; made by
            ``python -m unifashion_pl.weights.train_tiny_sd``); its parameters come frozen.
        config: instead of ``source``, fields of ``UNet2DConditionModel`` (see :data:`SD1_UNET`): random, trainable weights.
        in_channels: 4 (generation only) or 13 (editing too); None = as source or config have it. A source with fewer is widened
            with zero columns; nine are taken to be in Paint-by-Example's order, which Stable Diffusion's own inpainting U-Net
            does not follow.
        gradient_checkpointing: recompute activations in the backward pass.

    Attributes:
        unet: the diffusers model.
        context_width: C, width of the context tokens.

    Raises:
        ValueError: not exactly one of source and config, or neither 4 nor 13 channels.
    """

    def __init__(
        self,
        *,
        source: str | None = None,
        config: dict[str, Any] | None = None,
        in_channels: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if (source is None) == (config is None):
            raise ValueError("give a Denoiser either source (folder or hub id) or config (arguments of UNet2DConditionModel)")
        self.unet: Any = _load_unet(source) if source is not None else _new_unet(config or {}, in_channels)
        self.in_channels: int = in_channels or self.unet.config.in_channels
        if self.in_channels not in CHANNELS:
            raise ValueError(f"the U-Net has {self.in_channels} input channels, expected 4 (generation) or 13 (editing too)")
        if self.unet.config.in_channels != self.in_channels:
            widen_input(self.unet, self.in_channels)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.context_width: int = self.unet.config.cross_attention_dim

    @property
    def multiple(self) -> int:
        """Height and width of the latents have to be multiples of this, so that the decoder meets the encoder's sizes."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

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
        """Noisy latents (B, 4, h, w), timesteps (B,), context (B, N, C) -> eps (B, 4, h, w) in the latents' dtype.

        Args:
            person: (B, 4, h, w) latents of the person, the repaint region greyed.
            keep: (B, 1, h, w) in 0..1, 1 = keep, 0 = repaint.
            pose: (B, 4, h, w) latents of the pose image.

        Raises:
            ValueError: a condition for a U-Net with 4 channels, or one of a wrong shape.
        """
        given = self.assemble(latents, person, keep, pose)
        dtype = self.unet.dtype
        out = self.unet(given.to(dtype), timesteps, encoder_hidden_states=context.to(dtype), return_dict=False)[0]
        return out.to(latents.dtype)

    def assemble(self, latents: Tensor, person: Tensor | None, keep: Tensor | None, pose: Tensor | None) -> Tensor:
        """Conditions behind the noisy latents, zeros for what is absent -> (B, in_channels, h, w)."""
        conditions = {"person": (person, LATENT_CHANNELS), "keep": (keep, 1), "pose": (pose, LATENT_CHANNELS)}
        if self.in_channels == LATENT_CHANNELS:
            if given := [name for name, (value, _) in conditions.items() if value is not None]:
                raise ValueError(f"this U-Net has 4 input channels and cannot read {', '.join(given)}: build it with 13")
            return latents
        B, _, h, w = latents.shape
        parts = [latents]
        for name, (value, channels) in conditions.items():
            part = latents.new_zeros(B, channels, h, w) if value is None else value.to(latents.dtype)
            if part.shape != (B, channels, h, w):
                raise ValueError(f"{name} has shape {tuple(part.shape)}, expected {(B, channels, h, w)} like the latents")
            parts.append(part)
        return torch.cat(parts, 1)


def widen_input(unet: Any, channels: int) -> None:
    """Append zero columns to a U-Net's first convolution: the new channels have no effect until they are trained.

    Raises:
        ValueError: the U-Net has more channels than asked for.
    """
    old = unet.conv_in
    if old.in_channels > channels:
        raise ValueError(f"the U-Net reads {old.in_channels} channels, which cannot be narrowed to {channels}")
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, device=old.weight.device)
    new = new.to(old.weight.dtype)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        new.bias.copy_(old.bias)  # type: ignore[union-attr]
    unet.conv_in = new.requires_grad_(old.weight.requires_grad)
    unet.register_to_config(in_channels=channels)


def _load_unet(source: str) -> Any:
    from diffusers import UNet2DConditionModel

    return load_part(UNet2DConditionModel, source, "unet").requires_grad_(False)


def _new_unet(config: dict[str, Any], in_channels: int | None) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**(config if in_channels is None else {**config, "in_channels": in_channels}))
