"""The garment branch of Fig. 3: a trainable copy of the U-Net's encoder, read by zero cross-attentions in the U-Net's decoder.

It is StableVITON's (arXiv 2312.01725), from which the paper takes it: the copy reads the same noisy input as the U-Net and, through a
zero convolution, the garment's latents; nothing of it is added to aligned maps, because a garment is not aligned with its wearer.

Letters: B batch, h x w latents, C_h channels of the decoder at a place, C_ref channels of the copy's feature that is read there.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from diffusers import Transformer2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unifashion_pl.arguments import choice
from unifashion_pl.generation.placed_attention import PlacedLinear, PlacedTransformer

#: Options of a U-Net of which :func:`denoise` knows Stable Diffusion 1.x's choice alone.
_USUAL = {
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "center_input_sample": False,
    **dict.fromkeys(
        ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim", "time_embedding_act_fn")
    ),
}


Hint = Literal["zero", "latents"]


@dataclass(frozen=True)
class Place:
    """Where the decoder reads the garment: before layer ``layer`` of ``up_blocks[block]``, ahead of its skip connection.

    Attributes:
        channels: C_h.
        feature: index of the copy's feature, counted as the encoder's skip connections; it is the layer's own skip's.
        feature_channels: C_ref.
        heads: of the attention there.
    """

    block: int
    layer: int
    channels: int
    feature: int
    feature_channels: int
    heads: int


def places(unet: Any) -> list[Place]:
    """The places of a U-Net, decoder order: every layer above the lowest level; nine in Stable Diffusion 1.x.

    Raises:
        ValueError: a U-Net of one level, or with options that Stable Diffusion 1.x does not have.
    """
    config = unet.config
    if foreign := {name: config.get(name) for name, usual in _USUAL.items() if config.get(name, usual) != usual}:
        raise ValueError(f"the garment branch needs a U-Net like Stable Diffusion 1.x's; this one has {foreign}")
    widths = list(config.block_out_channels)
    if len(widths) < 2:
        raise ValueError(f"the garment branch needs a U-Net with at least two levels, this one has the widths {widths}")
    # of the skip connections, from top to bottom: the first convolution, then each level's layers and downsampler
    skips = [unet.conv_in.out_channels]
    for down in unet.down_blocks:
        skips += [layer.out_channels for layer in (*down.resnets, *(down.downsamplers or ()))]
    heads = config.num_attention_heads or config.attention_head_dim  # diffusers: SD 1.x names its number of heads a dimension
    per_level = [heads] * len(widths) if isinstance(heads, int) else heads
    found = []
    for i, block in enumerate(unet.up_blocks):
        for layer, resnet in enumerate(block.resnets):
            width = skips.pop()
            if i > 0:
                found.append(Place(i, layer, resnet.in_channels - width, len(skips), width, per_level[len(widths) - 1 - i]))
    return found


class GarmentBranch(nn.Module):
    """Encoder copy, hint convolution, and one zero cross-attention per place.

    At first it changes nothing: the convolutions behind the cross-attentions are zero (theirs alone; the inner ones are not, so that
    the blocks open at the second step). The copy starts as the U-Net's encoder and trains whether or not the U-Net does.

    Args:
        unet: a U-Net of diffusers, already with its final number of input channels.
        extent: ``truncated`` ends the copy at the last feature that is read. ``full`` also holds what StableVITON's checkpoints have
            below it, which nothing reads and which never runs.
        heads: of the cross-attentions; None = the U-Net's own, as StableVITON has it.
        hint: start of the convolution that lets the garment's latents in: ``zero`` (StableVITON), or ``latents``, the U-Net's own way of
            reading latents, so that a short training need not find one. Either way the branch changes nothing at first.
        positions: tell the cross-attentions where in their pictures the cells of person and garment lie, from coarse to fine
            (:class:`PlacedLinear`). StableVITON
            has nothing of the kind: Stable Diffusion's deep features know their places, those of a small U-Net do not.

    Attributes:
        places: see :func:`places`.

    Raises:
        ValueError: an unknown extent, or see :func:`places`.
    """

    def __init__(
        self,
        unet: Any,
        *,
        extent: Literal["truncated", "full"] = "truncated",
        heads: int | None = None,
        hint: Hint = "zero",
        positions: bool = False,
    ) -> None:
        super().__init__()
        choice(extent, "extent", ("truncated", "full"))
        self.places = [place if heads is None else replace(place, heads=heads) for place in places(unet)]
        self.encoder = encoder_copy(unet, full=extent == "full")
        self.hint = nn.Conv2d(4, unet.conv_in.out_channels, 3, padding=1)
        self.positions = positions
        self.blocks = nn.ModuleList()
        for k, place in enumerate(self.places):
            sizes: dict[str, Any] = {"in_channels": place.channels, "cross_attention_dim": place.feature_channels}
            sizes |= {"num_layers": 1, "norm_num_groups": unet.config.norm_num_groups}
            kind: Any = partial(PlacedTransformer, logit=PlacedLinear.LOGITS[k > 0]) if positions else Transformer2DModel
            self.blocks.append(kind(place.heads, place.channels // place.heads, **sizes))
        self.zero_convs = nn.ModuleList(nn.Conv2d(p.channels, p.channels, 1) for p in self.places)
        for conv in (self.hint, *self.zero_convs):
            for parameter in conv.parameters():
                nn.init.zeros_(parameter)
        if choice(hint, "start of the hint", get_args(Hint)) == "latents":
            self.hint.weight.data.copy_(unet.conv_in.weight.data[:, :4])
        # as diffusers' modules have it, but around a place's whole call: where it looks is handed over beside the tensors
        self.gradient_checkpointing: bool = unet.is_gradient_checkpointing
        self._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    @property
    def trains(self) -> bool:
        """Whether any of its parameters has a gradient."""
        return any(p.requires_grad for p in self.parameters())

    def features(self, given: Tensor, time: Tensor, context: Tensor, hint: Tensor) -> list[Tensor]:
        """The copy's features at the U-Net's skip connections above the lowest level.

        Args:
            given: (B, in_channels, h, w), the U-Net's input.
            time: (B, T) sinusoids of the timesteps.
            context: (B, N, C).
            hint: (B, 4, h, w) latents of the garment's photo or sketch.
        """
        embedded = self.encoder.time_embedding(time)
        sample = self.encoder.conv_in(given) + self.hint(hint)
        features = [sample]
        needed = max(place.feature for place in self.places)
        for block in self.encoder.down_blocks:
            if len(features) <= needed:
                sample, outputs = _down(block, sample, embedded, context)
                features += outputs
        return features

    def read(
        self, k: int, h: Tensor, features: list[Tensor], gate: Tensor, found: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """h (B, C_h, h, w) of place ``k`` with what its cross-attention finds, times the gate (B, 1, 1, 1) in 0..1.

        Args:
            found: of the place before.

        Returns:
            h, and with positions (B, 2, h, w): where in the garment's picture each cell looked, x and y in 0..1.
        """
        tokens = features[self.places[k].feature].flatten(2).transpose(1, 2)
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            read, found = self._gradient_checkpointing_func(self._look, k, h, tokens, found)
        else:
            read, found = self._look(k, h, tokens, found)
        return h + gate * self.zero_convs[k](read), found

    def _look(self, k: int, h: Tensor, tokens: Tensor, found: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.positions:
            read, found = self.blocks[k](h, tokens, found)
            return read, found
        return self.blocks[k](h, encoder_hidden_states=tokens, return_dict=False)[0], None


def encoder_copy(unet: Any, *, full: bool = False) -> Any:
    """A trainable copy of time embedding, first convolution and the encoder's levels above the lowest, without the last downsampler.

    Args:
        full: all levels and the middle.
    """
    encoder: Any = nn.Module()
    encoder.time_embedding = copy.deepcopy(unet.time_embedding)
    encoder.conv_in = copy.deepcopy(unet.conv_in)
    encoder.down_blocks = copy.deepcopy(unet.down_blocks if full else unet.down_blocks[:-1])
    if full:
        encoder.mid_block = copy.deepcopy(unet.mid_block)
    else:
        encoder.down_blocks[-1].downsamplers = None
    return encoder.requires_grad_(True)


def denoise(
    unet: Any,
    branch: GarmentBranch,
    given: Tensor,
    timesteps: Tensor,
    context: Tensor,
    hint: Tensor,
    gate: Tensor,
    rows: Tensor | None = None,
) -> Tensor:
    """The U-Net's forward pass with the garment read in its decoder.

    It walks diffusers' own modules: hooks on them would hand features over by shared state, which recomputed activations (gradient
    checkpointing) of two forward passes in one step would mix up.

    Args:
        given: (B, in_channels, h, w), the same for U-Net and copy.
        timesteps: (B,).
        context: (B, N, C).
        hint: (B, 4, h, w).
        gate: (B, 1, 1, 1): 1 = garment, 0 = none; then the row is the plain U-Net's, exactly.
        rows: (K,) int64, for which the branch runs, with a gate of 0 everywhere else; None = all.

    Returns:
        eps (B, 4, h, w).
    """

    def own(x: Tensor) -> Tensor:
        return x if rows is None else x.index_select(0, rows)

    time = unet.get_time_embed(given, timesteps)
    features, gate = branch.features(own(given), own(time), own(context), own(hint)), own(gate)
    embedded = unet.time_embedding(time)
    sample = unet.conv_in(given)
    skips = [sample]
    for block in unet.down_blocks:
        sample, outputs = _down(block, sample, embedded, context)
        skips += outputs
    sample = unet.mid_block(sample, embedded, encoder_hidden_states=context)
    k, found = 0, None
    for i, block in enumerate(unet.up_blocks):
        for layer in range(len(block.resnets)):
            if i > 0:
                read, found = branch.read(k, own(sample), features, gate, found)
                sample = read if rows is None else sample.to(read.dtype).index_copy(0, rows, read)
                k += 1
            sample = torch.cat([sample, skips.pop()], 1)
            if torch.is_grad_enabled() and block.gradient_checkpointing:
                sample = block._gradient_checkpointing_func(block.resnets[layer], sample, embedded)
            else:
                sample = block.resnets[layer](sample, embedded)
            if getattr(block, "has_cross_attention", False):
                sample = block.attentions[layer](sample, encoder_hidden_states=context, return_dict=False)[0]
        for upsampler in block.upsamplers or ():
            sample = upsampler(sample)
    out: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(sample)))
    return out


def _down(block: Any, sample: Tensor, embedded: Tensor, context: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    extra = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
    out: tuple[Tensor, tuple[Tensor, ...]] = block(hidden_states=sample, temb=embedded, **extra)
    return out
