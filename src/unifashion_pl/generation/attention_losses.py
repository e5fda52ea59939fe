"""Optional losses on where the decoder looks in the garment: total variation (StableVITON), flow (Leffa) and shape. All are off by default.

Letters: B samples, N = h w cells of a place's grid in row-major order, H x W pixels, A attention from the person's cells to the garment's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unifashion_pl.generation.garment import GarmentBranch
from unifashion_pl.generation.placed_attention import centres


@dataclass
class Look:
    """What a cross-attention of the branch was given.

    Attributes:
        layer: the attention.
        hidden, tokens: its queries' input (B, N, C) and its keys' (B, N, C_ref).
        queries, keys: their coordinates, see :class:`~unifashion_pl.generation.placed_attention.PlacedAttention`; None without positions.
    """

    layer: Any
    hidden: Tensor
    tokens: Tensor
    queries: Tensor | None = None
    keys: Tensor | None = None


Looks = dict[int, Look]


@contextmanager
def recorded(branch: GarmentBranch | None, ks: Sequence[int]) -> Iterator[Looks]:
    """What the cross-attentions of places ``ks`` read in a forward pass inside; fused kernels keep no probabilities."""
    looks: Looks = {}
    handles = []
    for k in ks if branch is not None else ():
        layer: Any = branch.blocks[k].transformer_blocks[0].attn2  # type: ignore[index, union-attr]

        def keep(attention: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], k: int = k) -> None:
            looks[k] = Look(attention, args[0], kwargs["encoder_hidden_states"], kwargs.get("queries"), kwargs.get("keys"))

        handles.append(layer.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        yield looks
    finally:
        for handle in handles:
            handle.remove()


def probabilities(look: Look, temperature: float = 1.0) -> Tensor:
    """A (B, N, N), the heads' mean of softmax(Q K^T / (sqrt(d) temperature)).

    Raises:
        ValueError: the layer is sharded, and so cannot be used beside its forward pass.
    """
    layer = look.layer
    if hasattr(layer.to_q.weight, "full_tensor"):
        raise ValueError(
            "losses on attention need whole layers, these are sharded: use ddp.yaml, or tv_weight = flow_weight = shape_weight = 0"
        )
    hidden, tokens = (x.to(layer.to_q.weight.dtype) for x in (look.hidden, look.tokens))  # a bf16 U-Net hands on bf16
    at = [() if coordinates is None else (coordinates,) for coordinates in (look.queries, look.keys)]
    projected = layer.to_q(hidden, *at[0]), layer.to_k(tokens, *at[1])
    q, k = (x.float().unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in projected)
    scores = q @ k.transpose(-1, -2) / (math.sqrt(q.shape[-1]) * temperature)
    return scores.softmax(-1).mean(1)


def grid_of(cells: int, latents: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a place with ``cells`` cells, a level's halvings below the latents."""
    factor = round(math.sqrt(latents[0] * latents[1] / cells))
    return latents[0] // factor, latents[1] // factor


def total_variation(attention: Tensor, grid: tuple[int, int], mask: Tensor) -> Tensor:
    """How much the centre of attention jumps between neighbouring cells of the worn garment, per pair of neighbours.

    E_i = sum_j A_ij (row_j, col_j); |E_i - E_i'|_1, averaged over the vertical and over the horizontal pairs of the batch, added. The
    denominator is at least 1 (StableVITON's own code divides by zero without a mask). A constant map is its minimum.

    Args:
        attention: A (B, N, N).
        mask: (B, 1, H, W) bool, where the garment is worn; False everywhere leaves a sample out.
    """
    places = torch.cartesian_prod(*(torch.arange(side) for side in grid)).to(attention)
    centres = (attention @ places).unflatten(1, grid)
    inside = F.interpolate(mask.float(), grid, mode="nearest")[:, 0] > 0.5
    total = attention.new_zeros(())
    for dim, side in enumerate(grid, 1):
        both = inside.narrow(dim, 1, side - 1) & inside.narrow(dim, 0, side - 1)
        total = total + (centres.diff(dim=dim).abs().sum(-1) * both).sum() / both.sum().clamp(min=1)
    return total


def carried(attention: Tensor, grid: tuple[int, int], picture: Tensor) -> Tensor:
    """A picture (B, C, H, W) of the garment, brought to the person: each pixel from the centre of where its cell looks.

    Args:
        attention: A (B, N, N).
    """
    flow = (attention @ (centres(grid, attention.device).to(attention) * 2 - 1)).unflatten(1, grid).movedim(-1, 1)
    flow = F.interpolate(flow, picture.shape[-2:], mode="bilinear", align_corners=False).movedim(1, -1)
    return F.grid_sample(picture, flow, align_corners=False, padding_mode="border")


def flow_error(attention: Tensor, grid: tuple[int, int], garment: Tensor, person: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference between the person and the garment's photo, carried where the attention looks (arXiv 2412.08486).

    Args:
        attention: A (B, N, N); Leffa's has temperature 2.
        garment, person: (B, 3, H, W) uint8, compared in [-1, 1].
        mask: (B, 1, H, W) bool, where the garment is worn; False everywhere leaves a sample out.
    """
    there = carried(attention, grid, garment.float() / 127.5 - 1)
    error = (there - (person.float() / 127.5 - 1)).square().mean(1, keepdim=True)
    return (error * mask).sum() / mask.sum().clamp(min=1)


def shape_error(attention: Tensor, grid: tuple[int, int], shapes: Tensor, worn: Tensor, rows: Tensor) -> Tensor:
    """Mean squared difference between where the garment is worn and its outline in the photo, carried where the attention looks.

    The flow error alone has a bad minimum: within the worn garment, everything that looks at the photo's middle is wrong by less than
    stripes that are half a period off. This one is small only if what is outside of the garment looks outside, too.

    Args:
        attention: A (B, N, N).
        shapes, worn: (B, 1, H, W) bool, the garment in its photo and on the person; compared as -1 and 1.
        rows: (B,) bool, False leaves a sample out.
    """
    error = (carried(attention, grid, shapes.float() * 2 - 1) - (worn.float() * 2 - 1)).square().mean((1, 2, 3))
    return (error * rows).sum() / rows.sum().clamp(min=1)
