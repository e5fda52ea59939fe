"""The garment branch of Fig. 3: a trainable copy of the U-Net's encoder, read by zero cross-attentions in the U-Net's decoder.

It is StableVITON's (arXiv 2312.01725), from which the paper takes it: the copy reads the same noisy input as the U-Net and, through a
zero convolution, the garment's latents; nothing of it is added to aligned maps, because a garment is not aligned with its wearer.

Letters: B batch, h x w latents, C_h channels of the decoder at a place, C_ref channels of the copy's feature that is read there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    skips = list(_skip_channels(unet))
    found = []
    for i, block in enumerate(unet.up_blocks):
        for layer, resnet in enumerate(block.resnets):
            width = skips.pop()
            if i > 0:
                place = Place(i, layer, resnet.in_channels - width, len(skips), width, _heads(config, len(widths) - 1 - i))
                found.append(place)
    return found


def _skip_channels(unet: Any) -> Iterator[int]:
    """Channels of the encoder's skip connections from top to bottom: the first convolution, then each level's layers and downsampler."""
    yield unet.conv_in.out_channels
    for block in unet.down_blocks:
        yield from (resnet.out_channels for resnet in block.resnets)
        yield from (layer.out_channels for layer in block.downsamplers or ())


def _heads(config: Any, level: int) -> int:
    heads = config.num_attention_heads or config.attention_head_dim  # diffusers: SD 1.x names its number of heads a dimension
    return int(heads if isinstance(heads, int) else heads[level])


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
        if extent not in ("truncated", "full"):
            raise ValueError(f"unknown extent {extent!r} of the encoder copy; known are truncated, full")
        self.places = [place if heads is None else replace(place, heads=heads) for place in places(unet)]
        self.encoder = encoder_copy(unet, full=extent == "full")
        self.hint = nn.Conv2d(4, unet.conv_in.out_channels, 3, padding=1)
        groups = unet.config.norm_num_groups
        self.blocks = nn.ModuleList(_cross_attention(place, groups) for place in self.places)
        self.zero_convs = nn.ModuleList(nn.Conv2d(p.channels, p.channels, 1) for p in self.places)
        if positions:
            for k, attention in enumerate(map(_attention, self.blocks)):
                width, logit = attention.inner_dim // attention.heads, PlacedLinear.LOGITS[k > 0]
                attention.to_q = PlacedLinear(attention.to_q, width, logit)
                attention.to_k = PlacedLinear(attention.to_k, width, logit)
                attention.set_processor(Finding())
        for conv in (self.hint, *self.zero_convs):
            for parameter in conv.parameters():
                nn.init.zeros_(parameter)
        if hint not in get_args(Hint):
            raise ValueError(f"unknown start of the hint {hint!r}; known are {', '.join(get_args(Hint))}")
        if hint == "latents":
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
        block, processor = self.blocks[k], _attention(self.blocks[k]).processor
        if not isinstance(processor, Finding):
            return block(h, encoder_hidden_states=tokens, return_dict=False)[0], None
        grid = (h.shape[-2], h.shape[-1])
        processor.keys = centres(grid, h.device)[None]
        start = None if found is None else F.interpolate(found, grid, mode="bilinear").flatten(2).transpose(1, 2)
        processor.queries = processor.keys if start is None else start
        read = block(h, encoder_hidden_states=tokens, return_dict=False)[0]
        found = processor.found.transpose(1, 2).unflatten(2, grid)
        # nothing of a pass stays: another one has places of its own, and copies of a model take no tensors with a history
        del processor.keys, processor.queries, processor.found
        return read, found


def centres(grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """(h w, 2) x, y in 0..1 of a picture's h x w cells, row-major."""
    h, w = grid
    y, x = ((torch.arange(side, device=device) + 0.5) / side for side in (h, w))
    return torch.stack([x.expand(h, w), y.view(-1, 1).expand(h, w)], -1).flatten(0, 1)


class PlacedLinear(nn.Linear):
    """Queries or keys of an attention that also tell where in the garment's picture a cell lies, or looks.

    To W x comes P f, f being sines and cosines of relative coordinates, whatever the picture's size. Queries and keys start with the same P
    of orthogonal columns, so that a cell looks where its coordinates say. Keys have their own coordinates, and so have the queries of the
    first place: what is worn elsewhere is found from near by. Queries of every later place have the coordinates that the place before
    found, and hit them sharply: a print survives only if few cells are averaged.

    Attributes:
        places: P.
    """

    #: Half waves per side of the picture: powers of two.
    WAVES = (1, 2, 4, 8, 16)
    #: Of a full match, as it stands in the softmax: of the first place and of later ones.
    LOGITS = (10.0, 20.0)

    def __init__(self, plain: nn.Linear, per_head: int, logit: float) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None)
        self.load_state_dict(plain.state_dict())
        self.places = nn.Linear(4 * len(self.WAVES), plain.out_features, bias=False)
        # f . f = 2 WAVES, hence the scale by which sqrt(per_head) in the softmax's denominator leaves the logit
        head = torch.eye(per_head, 4 * len(self.WAVES)) * math.sqrt(logit * math.sqrt(per_head) / (2 * len(self.WAVES)))
        self.places.weight.data.copy_(head.repeat(plain.out_features // per_head, 1))

    def forward(self, cells: Tensor, at: Tensor) -> Tensor:  # type: ignore[override]
        """(B, h w, C) at coordinates (B or 1, h w, 2), x and y in 0..1 -> (B, h w, out)."""
        halves = math.pi * torch.arange(len(self.WAVES), device=cells.device).exp2()  # WAVES, made where they are used
        angles = at.flip(-1).unsqueeze(-1) * halves  # y first
        waves = torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)
        out: Tensor = super().forward(cells) + self.places(waves.to(self.weight.dtype))
        return out


class Finding:
    """Attention as diffusers' own processors compute it, that also tells where it looked.

    Attributes:
        queries, keys: (B or 1, h w, 2) their coordinates x, y in 0..1; to be set before each call.
        found: (B, h w, 2) mean coordinates of what the queries of the call attended to, heads averaged.
    """

    queries: Tensor
    keys: Tensor
    found: Tensor

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None) -> Tensor:
        projected = (
            attn.to_q(hidden_states, self.queries), attn.to_k(encoder_hidden_states, self.keys), attn.to_v(encoder_hidden_states),
        )  # fmt: skip
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in projected)
        width = v.shape[-1]
        v = torch.cat([v, self.keys.to(v.dtype).expand(*v.shape[:2], -1, -1)], -1)
        # fused kernels want one width, of whole eights; zeros change no product
        q, k, v = (F.pad(x, (0, -(-(width + 2) // 8) * 8 - x.shape[-1])) for x in (q, k, v))
        read = F.scaled_dot_product_attention(q, k, v, scale=width**-0.5)
        self.found = read[..., width : width + 2].mean(1)
        out: Tensor = attn.to_out[1](attn.to_out[0](read[..., :width].transpose(1, 2).flatten(2)))
        return out


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


def _attention(block: Any) -> Any:
    return block.transformer_blocks[0].attn2


def _cross_attention(place: Place, groups: int) -> Any:
    from diffusers import Transformer2DModel

    return Transformer2DModel(
        place.heads,
        place.channels // place.heads,
        in_channels=place.channels,
        num_layers=1,
        cross_attention_dim=place.feature_channels,
        norm_num_groups=groups,
    )


def denoise(
    unet: Any, branch: GarmentBranch, given: Tensor, timesteps: Tensor, context: Tensor, hint: Tensor, gate: Tensor
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

    Returns:
        eps (B, 4, h, w).
    """
    time = unet.get_time_embed(given, timesteps)
    features = branch.features(given, time, context, hint)
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
                sample, found = branch.read(k, sample, features, gate, found)
                k += 1
            sample = _up_layer(block, layer, torch.cat([sample, skips.pop()], 1), embedded, context)
        for upsampler in block.upsamplers or ():
            sample = upsampler(sample)
    out: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(sample)))
    return out


def _down(block: Any, sample: Tensor, embedded: Tensor, context: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    extra = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
    out: tuple[Tensor, tuple[Tensor, ...]] = block(hidden_states=sample, temb=embedded, **extra)
    return out


def _up_layer(block: Any, layer: int, sample: Tensor, embedded: Tensor, context: Tensor) -> Tensor:
    resnet = block.resnets[layer]
    if torch.is_grad_enabled() and block.gradient_checkpointing:
        sample = block._gradient_checkpointing_func(resnet, sample, embedded)
    else:
        sample = resnet(sample, embedded)
    if getattr(block, "has_cross_attention", False):
        sample = block.attentions[layer](sample, encoder_hidden_states=context, return_dict=False)[0]
    return sample
