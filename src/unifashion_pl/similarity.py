"""Similarities of texts and images: the best of an image's query tokens, by tiles, with a sparse gradient.

Of the Q products of a pair one counts. The forward pass keeps the best one of each pair and which it was, a byte; the (N, M, Q) products themselves
exist one tile at a time. So the gradient of a pair reaches one token: both gradients are sums of N × M weighted rows, where the dense form
would multiply matrices of N × M × Q entries of which all but N × M are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Products of a tile: about what a core's cache holds; a GPU needs large ones.
_CPU_TILE, _GPU_TILE = 2**18, 2**26
#: Images of a tile of the backward pass: of Q = 32 tokens each, so that those of a tile stay in a core's cache.
_IMAGES = 64


def max_sim(text: Tensor, image: Tensor) -> Tensor:
    """Similarity of a text and an image (§3.1.1, as in BLIP-2): the best of the image's query tokens.

    It is computed in the inputs' own precision, under autocast too: neighbouring cosines are equal in bf16. Of equal products the first counts and has the
    whole gradient, as with ``argmax`` (``amax`` would share it). The gradient has no gradient of its own. Under ``torch.compile`` it is a call of
    its own: tiles follow the batch.

    Args:
        text: (N, E) unit vectors.
        image: (M, Q, E) unit vectors.

    Returns:
        (N, M); its transpose serves image -> text.
    """
    with torch.autocast(text.device.type, enabled=False):
        if text.dtype != image.dtype:
            wide = torch.promote_types(text.dtype, image.dtype)
            text, image = text.to(wide), image.to(wide)
        if image.shape[1] == 1:
            return text @ image[:, 0].T
        return _by_tiles(text, image)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _by_tiles(text: Tensor, image: Tensor) -> Tensor:
    if torch.is_grad_enabled() and (text.requires_grad or image.requires_grad):
        best: Tensor = _MaxSim.apply(text, image)
        return best
    return _best(text, image)


class _MaxSim(torch.autograd.Function):
    """:func:`max_sim` of more than one token."""

    @staticmethod
    def forward(ctx: Any, text: Tensor, image: Tensor) -> Tensor:
        tokens = image.shape[1]
        kind = torch.uint8 if tokens <= 2**8 else torch.int32
        which = torch.empty(len(text), len(image), dtype=kind, device=text.device)
        best = _best(text, image, which)
        ctx.save_for_backward(text, image, which)
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        text, image, which = ctx.saved_tensors
        of_text = torch.zeros_like(text) if ctx.needs_input_grad[0] else None
        of_image = torch.empty_like(image) if ctx.needs_input_grad[1] else None
        for start in range(0, len(image), _IMAGES):
            tile = slice(start, start + _IMAGES)
            if of_text is not None:
                of_text += _text_part(grad[:, tile], which[:, tile], image[tile])
            if of_image is not None:
                of_image[tile] = _image_part(grad[:, tile], which[:, tile], text, image.shape[1])
        return of_text, of_image


def _best(text: Tensor, image: Tensor, which: Tensor | None = None) -> Tensor:
    """(N, M) maxima; fills ``which`` (N, M) with their places."""
    (N, E), (M, Q, _) = text.shape, image.shape
    best = text.new_empty(N, M)
    for rows, columns in _tiles(N, M, Q, text.device.type):
        products = (text[rows] @ image[columns].reshape(-1, E).T).view(len(best[rows]), -1, Q)
        if which is None:
            best[rows, columns] = products.amax(-1)
        else:
            best[rows, columns], which[rows, columns] = products.max(-1)
    return best


def _tiles(N: int, M: int, Q: int, device: str) -> Iterator[tuple[slice, slice]]:
    """Blocks of texts and images; all texts of a block of images one after another, so that its tokens are read once."""
    size = _GPU_TILE if device == "cuda" else _CPU_TILE
    texts = max(1, N if device == "cuda" else min(N, 256))
    images = max(1, size // (texts * max(1, Q)))
    for column in range(0, M, images):
        for row in range(0, N, texts):
            yield slice(row, row + texts), slice(column, column + images)


def _text_part(grad: Tensor, which: Tensor, image: Tensor) -> Tensor:
    """What a tile of images (m, Q, E) gives to the gradient of the texts: grad and which (N, m) -> (N, E)."""
    m, Q, E = image.shape
    places = which.int() + torch.arange(0, m * Q, Q, dtype=torch.int32, device=which.device)
    return F.embedding_bag(places, image.reshape(-1, E), mode="sum", per_sample_weights=grad.contiguous())


def _image_part(grad: Tensor, which: Tensor, text: Tensor, Q: int) -> Tensor:
    """The gradient of a tile of images: grad and which (N, m) -> (m, Q, E). Pairs are sorted by token, and each token sums its texts."""
    N, m = which.shape
    kind = torch.int16 if m * Q < 2**15 else torch.int32  # of 16 bits they are sorted fastest
    places = which.T.to(kind) + torch.arange(0, m * Q, Q, dtype=kind, device=which.device)[:, None]
    places, order = places.flatten().sort(stable=True)
    starts = torch.searchsorted(places, torch.arange(m * Q, dtype=kind, device=which.device))
    weights = grad.T.reshape(-1)[order]
    return F.embedding_bag(order % N, text, starts, mode="sum", per_sample_weights=weights).view(m, Q, -1)
