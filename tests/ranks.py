"""What tests of several processes share: a model as DDP enters it, and a few steps of it on each rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unifashion_pl import UniFashionModule


class Entry(nn.Module):
    """DDP enters through ``forward``: a training step on one stream."""

    def __init__(self, model: UniFashionModule, stream: str) -> None:
        super().__init__()
        self.model = model
        self.stream = stream

    def forward(self, batch: object) -> Tensor:
        return self.model.training_step({self.stream: batch}, 0)  # type: ignore[dict-item]


def trained(
    model: UniFashionModule, step: Callable[[object], Tensor], batch: Callable[[int], object], rank: int, lr: float
) -> list[float]:
    """Losses of three steps of SGD; random numbers and ``batch(seed)`` are the rank's own."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for number in range(3):
        torch.manual_seed(10 * number + rank)
        loss = step(batch(10 * number + rank))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses
