"""Cross-attention that knows where the cells of its two pictures lie, and tells where it looked.

Letters: B batch, h x w cells of a picture, C their channels, C_ref those of the picture that is read.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import Transformer2DModel
from torch import Tensor, nn


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


class PlacedAttention:
    """Attention as diffusers' own processors compute it, that knows where cells lie and tells where it looked."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        *,
        queries: Tensor,
        keys: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            hidden_states, encoder_hidden_states: (B, h w, C) and (B, h w, C_ref).
            queries, keys: (B or 1, h w, 2) their coordinates x, y in 0..1.

        Returns:
            What is read (B, h w, C), and (B, h w, 2): mean coordinates of what each query attended to, heads averaged.
        """
        projected = attn.to_q(hidden_states, queries), attn.to_k(encoder_hidden_states, keys), attn.to_v(encoder_hidden_states)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in projected)
        width = v.shape[-1]
        v = torch.cat([v, keys.to(v.dtype).expand(*v.shape[:2], -1, -1)], -1)
        # fused kernels want one width, of whole eights; zeros change no product
        q, k, v = (F.pad(x, (0, -(-(width + 2) // 8) * 8 - x.shape[-1])) for x in (q, k, v))
        read = F.scaled_dot_product_attention(q, k, v, scale=width**-0.5)
        out: Tensor = attn.to_out[1](attn.to_out[0](read[..., :width].transpose(1, 2).flatten(2)))
        return out, read[..., width : width + 2].mean(1)


class PlacedTransformer(Transformer2DModel):
    """diffusers' transformer of one block whose cross-attention is a :class:`PlacedAttention`."""

    norm: Any
    proj_in: Any
    proj_out: Any
    transformer_blocks: Any

    def __init__(self, *args: Any, logit: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        attention = self.transformer_blocks[0].attn2
        width = attention.inner_dim // attention.heads
        attention.to_q = PlacedLinear(attention.to_q, width, logit)
        attention.to_k = PlacedLinear(attention.to_k, width, logit)
        attention.set_processor(PlacedAttention())

    def forward(self, h: Tensor, tokens: Tensor, found: Tensor | None) -> tuple[Tensor, Tensor]:
        """h (B, C, h, w) reads tokens (B, h w, C_ref) of a picture with the same grid.

        Args:
            found: (B, 2, h', w') where in that picture each cell looked in the block before, x and y in 0..1; None = at its own place.

        Returns:
            h, and where it looked now (B, 2, h, w).
        """
        grid = (h.shape[-2], h.shape[-1])
        keys = centres(grid, h.device)[None]
        queries = keys if found is None else F.interpolate(found, grid, mode="bilinear").flatten(2).transpose(1, 2)
        block = self.transformer_blocks[0]
        cells = self.proj_in(self.norm(h)).permute(0, 2, 3, 1).flatten(1, 2)
        cells = block.attn1(block.norm1(cells)) + cells
        read, looked = block.attn2(block.norm2(cells), encoder_hidden_states=tokens, queries=queries, keys=keys)
        cells = read + cells
        cells = block.ff(block.norm3(cells)) + cells
        out: Tensor = self.proj_out(cells.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()) + h
        return out, looked.transpose(1, 2).unflatten(2, grid)
