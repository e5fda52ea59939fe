"""The objectives of UniFashion as plain functions, usable without the rest of the library.

Letters: B samples per rank, N = B × world samples of all ranks, Q queries, E embedding width. All losses are means, so that terms of
different kinds stay comparable in one sum (Eqs. 8 and 13). Under an initialised process group the contrastive losses are those of
the global batch: averaged over ranks, as DDP does with gradients, loss and gradient equal those of one process.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from unifashion_pl.similarity import max_sim as max_sim

Reduction = Literal["mean", "sum"]
Negatives = Literal["multinomial", "argmax"]


class _AllGather(torch.autograd.Function):
    """(B, ...) on each rank -> (N, ...) on all; the backward pass sums what every rank derived for this rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        own = grad.new_empty(len(grad) // dist.get_world_size(), *grad.shape[1:])
        dist.reduce_scatter_tensor(own, grad)
        return own


def _world(gather: bool) -> tuple[int, int]:
    if gather and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_rows(x: Tensor, gather: bool = True) -> Tensor:
    """Concatenate equal-sized rows of all ranks, with gradient across ranks; the identity without a process group."""
    return _AllGather.apply(x) if _world(gather)[1] > 1 else x


def itc_loss(
    text: Tensor,
    image: Tensor,
    temperature: Tensor | float = 0.07,
    *,
    ids: Tensor | None = None,
    valid: Tensor | None = None,
    multi_positive: bool = False,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    gather: bool = True,
) -> Tensor:
    """The loss of :func:`contrast` alone, which says what the arguments are."""
    labels: dict[str, Any] = {"ids": ids, "valid": valid, "multi_positive": multi_positive}
    return contrast(
        text, image, temperature, **labels, label_smoothing=label_smoothing, reduction=reduction, gather=gather
    ).loss


class Contrast(NamedTuple):
    """A contrastive loss, and what it was computed from.

    Attributes:
        loss: scalar; 0 when nothing is valid.
        similarities: (B, B) of the rank's own texts and images, without gradient: what hard negatives are drawn by.
    """

    loss: Tensor
    similarities: Tensor


def contrast(
    text: Tensor,
    image: Tensor,
    temperature: Tensor | float = 0.07,
    *,
    ids: Tensor | None = None,
    valid: Tensor | None = None,
    multi_positive: bool = False,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    gather: bool = True,
) -> Contrast:
    """Symmetric image–text contrastive loss, also the terms of L_cir (Eq. 10). Eq. 3 prints one direction, §3.1.1 calls the loss symmetrical:
    the mean of both. The paper's lambda is 1/temperature.

    Across ranks only the text vectors and one log-sum-exp per text travel, never the (B, Q, E) image tokens.

    Args:
        text: (B, E) unit vectors: captions, or composed queries.
        image: (B, Q, E) unit vectors; row i belongs to text i. (B, 1, E) makes it a text–text loss.
        temperature: divides the similarities.
        ids: (B,) equal for samples that are no negatives of each other; off-diagonal entries with equal ids are left out.
        valid: (B,) bool; rows that are False take no part, neither as anchors nor as negatives.
        multi_positive: equal ids are positives with uniform weight instead of being left out.
        label_smoothing: mass spread over all admissible entries (0 in Eq. 3, 0.1 in BLIP-2).
        reduction: mean or sum of the two directions (the released code sums).
        gather: False keeps the loss on the rank's own batch.

    Returns:
        Loss and similarities, in float32 under mixed precision too: at a temperature of 0.01 neighbouring logits of bf16 are 0.5 apart.
    """
    B = text.shape[0]
    rank, world = _world(gather)
    similarities = max_sim(gather_rows(text.float(), gather), image.float())
    positive, allowed = _pairs(B, rank, text.device, ids, valid, multi_positive, gather)
    logits = (similarities / temperature).masked_fill_(~allowed, torch.finfo(similarities.dtype).min)
    per_image, per_text = _means(logits, positive, world)
    if label_smoothing:
        flat_image, flat_text = _means(logits, allowed, world)
        per_image = (1 - label_smoothing) * per_image + label_smoothing * flat_image
        per_text = (1 - label_smoothing) * per_text + label_smoothing * flat_text
    own = slice(rank * B, (rank + 1) * B)
    parts = gather_rows(torch.stack([torch.logsumexp(logits, 1), per_text], 1)[None], gather)
    text_to_image = (torch.logsumexp(parts[..., 0], 0) - parts[..., 1].sum(0))[own]
    kept = torch.ones(B, device=text.device) if valid is None else valid.to(logits.dtype)
    scale = kept * world / _over_ranks(kept.sum(), world)
    loss = ((torch.logsumexp(logits, 0) - per_image) * scale).sum() + (text_to_image * scale).sum()
    return Contrast(loss if reduction == "sum" else loss / 2, similarities.detach()[own])


def _means(logits: Tensor, members: Tensor, world: int) -> tuple[Tensor, Tensor]:
    """Means of the logits (N, B) of ``members`` (N, B): for each own image (B,), and for each text (N,) what this rank's images add to the mean."""
    taken = logits * members
    return taken.sum(0) / members.sum(0).clamp(min=1), taken.sum(1) / _over_ranks(members.sum(1), world)


def _over_ranks(count: Tensor, world: int) -> Tensor:
    """Counts of all ranks added, at least 1."""
    if world > 1:
        dist.all_reduce(count)
    return count.clamp(min=1)


def _pairs(
    B: int, rank: int, device: torch.device, ids: Tensor | None, valid: Tensor | None, multi_positive: bool, gather: bool
) -> tuple[Tensor, Tensor]:
    """Positives, and admissible entries: (N, B) bool each, over (text, own image)."""
    N = B * _world(gather)[1]
    positive = torch.arange(N, device=device)[:, None] == torch.arange(rank * B, (rank + 1) * B, device=device)
    allowed = torch.ones_like(positive)
    if ids is not None:
        same = gather_rows(ids, gather)[:, None] == ids[None, :]
        if multi_positive:
            positive = same
        else:
            allowed = ~same | positive
    if valid is not None:
        allowed = allowed & gather_rows(valid, gather)[:, None] & valid[None, :]
        positive = positive & allowed
    return positive, allowed


def hard_negatives(
    scores: Tensor, ids: Tensor | None = None, *, how: Negatives = "multinomial", generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """One negative per row for image–text matching.

    Args:
        scores: (B, B) logits; row i are the candidates of anchor i. Pass the transpose for the other direction.
        ids: (B,) equal ids are never chosen.
        how: ``multinomial`` draws from softmax(scores) (BLIP-2); ``argmax`` takes the hardest (released code).

    Returns:
        (anchors, negatives): index vectors of equal length <= B; an anchor without an admissible negative is left out.
    """
    negatives, found = drawn_negatives(scores, ids, how=how, generator=generator)
    anchors = found.nonzero().squeeze(1)
    return anchors, negatives[anchors]


def drawn_negatives(
    scores: Tensor, ids: Tensor | None = None, *, how: Negatives = "multinomial", generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`hard_negatives` of every row, in shapes that depend on no value: nothing waits for the device.

    Returns:
        (negatives (B,) int64, found (B,) bool); where found is False the anchor has no admissible negative and the index means nothing.
    """
    B = scores.shape[0]
    allowed = ~torch.eye(B, dtype=torch.bool, device=scores.device)
    if ids is not None:
        allowed &= ids[:, None] != ids[None, :]
    ranked = scores.detach().float()
    if how == "multinomial":  # the largest of logits with Gumbel noise is a draw from their softmax
        ranked = ranked - torch.empty_like(ranked).exponential_(generator=generator).log()
    return ranked.masked_fill(~allowed, float("-inf")).argmax(1), allowed.any(1)


def itm_loss(logits: Tensor, matches: Tensor, valid: Tensor | None = None) -> Tensor:
    """Two-way cross-entropy of image–text matching. Eq. 4 prints a softmax over the batch; the text calls the task binary, and so is all code.

    Args:
        logits: (n, 2), class 1 = match: the mean over queries of the matching head.
        matches: (n,) bool.
        valid: (n,) bool; rows that are False take no part. None = all do.
    """
    labels = matches.long() if valid is None else matches.long().masked_fill(~valid, -100)
    return F.cross_entropy(logits.float(), labels, ignore_index=-100)


def lm_loss(logits: Tensor, ids: Tensor, mask: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """Next-token loss of the Q-Former's own language head (BLIP-2's ITG; not in Eq. 5, hence off by default).

    Args:
        logits: (B, T, V) of the multimodal causal pass, or (B, T - 1, V): the last position predicts nothing.
        ids: (B, T) token ids. mask: (B, T) bool, False = padding.
    """
    labels = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
    return F.cross_entropy(
        logits[:, : labels.shape[1]].flatten(0, 1).float(), labels.flatten(), ignore_index=-100, label_smoothing=label_smoothing
    )
