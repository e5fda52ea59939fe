"""Memory of a training: what weights, gradients and optimiser need, and whether a GPU has it."""

from __future__ import annotations

import torch
from torch import nn


def needed(model: nn.Module) -> tuple[int, int]:
    """Bytes of weights, and of gradients and AdamW's two states; what does not depend on the batch."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return weights, sum(p.numel() * 3 * p.element_size() for p in model.parameters() if p.requires_grad)


def check_memory(model: nn.Module, device: torch.device, ranks: int = 1) -> None:
    """Refuse a training that cannot fit, before anything is moved to the GPU.

    Args:
        device: of this rank.
        ranks: over which FSDP2 shards the model; 1 = each holds it whole.

    Raises:
        RuntimeError: weights, gradients and optimiser states alone exceed the memory.
    """
    if device.type != "cuda":
        return
    need, total = sum(needed(model)) / ranks, torch.cuda.get_device_properties(device).total_memory
    if need > total:
        raise RuntimeError(
            f"too little memory: weights, gradients and AdamW need {need / 2**30:.1f} GiB before any activation, "
            f"{torch.cuda.get_device_name(device)} has {total / 2**30:.1f} GiB. Shard over several GPUs (--config fsdp.yaml), train in "
            "stages (paper-representation.yaml, paper-llm.yaml, paper-diffusion.yaml), or take commercial.yaml (one GPU of 24 GB)"
        )
