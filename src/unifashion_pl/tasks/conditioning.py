"""Parts of the U-Net's context: the adapter of the queries (TSA), the null token, and a text encoder that fits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unifashion_pl.arguments import choice
from unifashion_pl.generation import PromptEncoder
from unifashion_pl.parts import rebuild


class ResidualMLP(nn.Module):
    """x + Dropout(W2 QuickGELU(W1 LayerNorm(x))), inner width 4 D: the released phase-1 adapter, from BLIP-Diffusion."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dense1 = nn.Linear(width, 4 * width)
        self.dense2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, D) -> (B, Q, D)."""
        hidden = self.dense1(self.norm(x))
        return x + self.dropout(self.dense2(hidden * torch.sigmoid(1.702 * hidden)))


def build_adapter(kind: str, query_width: int, width: int) -> nn.Module:
    """``linear`` or ``residual_mlp`` from queries to context.

    Raises:
        ValueError: another kind, or widths that it cannot join.
    """
    if choice(kind, "adapter", ("linear", "residual_mlp")) == "linear":
        return nn.Linear(query_width, width)
    if query_width != width:
        raise ValueError(f"adapter residual_mlp needs equal widths, got queries {query_width} and context {width}: use linear")
    return ResidualMLP(width)


@torch.no_grad()
def null_token(kind: str, width: int, text_encoder: PromptEncoder | None) -> Tensor:
    """Start of the learnt null token (1, 1, C): ``random``, or ``empty_prompt``.

    Raises:
        ValueError: another kind, or no text encoder to read the empty prompt.
    """
    if kind == "random":
        return torch.randn(1, 1, width)
    if kind == "empty_prompt" and text_encoder is not None:
        if rebuild.brings_tensors(text_encoder.part):
            return torch.zeros(1, 1, width)  # a saved model brings its own
        return text_encoder([""]).float().mean(1, keepdim=True)
    raise ValueError(f"null_start is {kind!r}, expected random, or empty_prompt where the context reads text")


def checked_text_encoder(text_encoder: PromptEncoder | None, width: int) -> PromptEncoder:
    """The text encoder, if there is one of this width.

    Raises:
        ValueError: there is none, or of another width.
    """
    if text_encoder is None:
        raise ValueError("the context reads text: pass text_encoder=…, or choose context='tsa'")
    if text_encoder.width != width:
        raise ValueError(
            f"the text encoder is {text_encoder.width} wide, the U-Net's cross_attention_dim is {width}: make them equal"
        )
    return text_encoder
