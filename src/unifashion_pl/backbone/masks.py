"""Attention masks of the Q-Former over the sequence [Q queries | T text tokens] (BLIP-2, arXiv 2301.12597, §3.1: one mask an objective).

All masks that the Q-Former is given are floating, additive and 4-D: 0 = seen, the dtype's minimum = hidden.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

MaskMode = Literal["unimodal", "bidirectional", "causal"]


def visibility(num_queries: int, text_mask: Tensor, mode: MaskMode) -> Tensor:
    """Who may look at whom.

    Args:
        num_queries: Q.
        text_mask: (B, T) bool, True where a token is not padding.
        mode: ``unimodal`` (§3.1.1: queries and text do not see each other), ``bidirectional`` (§3.2.1: all see all) or ``causal``
            (BLIP-2's multimodal causal mask: queries see queries, text i sees the queries and text j <= i).

    Returns:
        (B, S, S) bool, [b, i, j] = position i sees position j.
    """
    B, T = text_mask.shape
    Q = num_queries
    seen = torch.zeros(B, Q + T, Q + T, dtype=torch.bool, device=text_mask.device)
    seen[:, :Q, :Q] = True
    text = text_mask.bool()[:, None, :].expand(B, T, T)
    if mode == "causal":
        text = text & torch.ones(T, T, dtype=torch.bool, device=text_mask.device).tril()
    seen[:, Q:, Q:] = text
    if mode != "unimodal":
        seen[:, Q:, :Q] = True
    if mode == "bidirectional":
        seen[:, :Q, Q:] = text_mask.bool()[:, None, :].expand(B, Q, T)
    return seen


def additive_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, n, m) bool, n positions that look at m -> (B, 1, n, m) floating; ``finfo(dtype).min``, never -inf, so that no row becomes NaN."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
