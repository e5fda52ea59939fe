"""Optimiser and schedule presets: the paper's values, the released code's, and ours (where they differ, with the reason)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unifashion_pl.freezing import part_of

Shape = Literal["one_cycle", "cosine", "constant"]
Side = Literal["qformer", "vision", "llm", "diffusion"]

#: Part -> side of the model whose preset it follows; every part of :data:`~unifashion_pl.freezing.PARTS`.
SIDES: dict[str, Side] = {
    "vision": "vision",
    "target_queries": "qformer",
    "encoder": "qformer",
    "heads": "qformer",
    "lm_head": "qformer",
    "tsa_llm": "llm",
    "lora": "llm",
    "llm": "llm",
    "tsa_diffusion": "diffusion",
    "unet_lora": "diffusion",
    "unet": "diffusion",
    "garment": "diffusion",
    "vae": "diffusion",
    "clip_text": "diffusion",
}


@dataclass(frozen=True)
class Preset:
    """AdamW and schedule of one side.

    Attributes:
        lr: peak learning rate. betas, eps, weight_decay: AdamW's.
        decay_all: decay every parameter, LayerNorms and biases too (released code); else ndim >= 2 only.
        shape: ``one_cycle`` (PyTorch's cosine one-cycle), ``cosine`` with warm-up, or ``constant`` with warm-up.
        warmup: fraction of all steps.
        cycle_beta1: let beta1 cycle 0.95 -> 0.85 -> 0.95 against the learning rate, as PyTorch's OneCycleLR silently does.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = False
    shape: Shape = "cosine"
    warmup: float = 0.0
    cycle_beta1: bool = False


_RETRIEVAL = Preset(lr=2e-5, betas=(0.9, 0.98), eps=1e-7, weight_decay=0.05, shape="one_cycle", warmup=0.1)

PRESETS: dict[str, Preset] = {
    "retrieval": _RETRIEVAL,
    "retrieval_released": replace(_RETRIEVAL, decay_all=True, cycle_beta1=True),
    "qformer_llm_released": replace(_RETRIEVAL, lr=2e-4, warmup=0.75, decay_all=True, cycle_beta1=True),
    "llm": Preset(lr=2e-5, betas=(0.9, 0.99), shape="cosine", warmup=0.03),
    "llm_released": Preset(lr=2e-4, shape="cosine", warmup=0.03),
    "diffusion": Preset(lr=1e-4, weight_decay=0.01, shape="constant"),
    # ours: of a few thousand steps the last ones have to be small, or pictures show the noise of the weights
    "diffusion_short": Preset(lr=1e-4, weight_decay=0.01, shape="cosine", warmup=0.03),
}


@dataclass
class OptimSettings:
    """Preset per side and what overrides it.

    Args:
        qformer, llm, diffusion: preset names; a vision tower that trains follows the Q-Former's.
        qformer_lr, llm_lr, diffusion_lr: peak learning rates, None = the preset's.
        vision_lr: peak learning rate of a vision tower that trains, None = the Q-Former's. A tower from random weights needs a
            higher one: what reaches it through the Q-Former is small and noisy.
        warmup: warm-up fraction of all one-cycle presets; None = the preset's. The papers' recipe is min(1.5 / epochs, 0.75).
    """

    qformer: str = "retrieval"
    llm: str = "llm"
    diffusion: str = "diffusion"
    qformer_lr: float | None = None
    llm_lr: float | None = None
    diffusion_lr: float | None = None
    vision_lr: float | None = None
    warmup: float | None = None

    def preset(self, side: Side) -> Preset:
        """Raises ValueError for an unknown preset name."""
        if side == "vision":
            name, lr = self.qformer, self.qformer_lr if self.vision_lr is None else self.vision_lr
        else:
            name, lr = getattr(self, side), getattr(self, f"{side}_lr")
        if name not in PRESETS:
            raise ValueError(f"unknown optimiser preset {name!r} for {side}; known are {', '.join(PRESETS)}")
        preset = PRESETS[name]
        if lr is not None:
            preset = replace(preset, lr=lr)
        if self.warmup is not None and preset.shape == "one_cycle":
            preset = replace(preset, warmup=self.warmup)
        return preset


def parameter_groups(model: nn.Module, settings: OptimSettings) -> tuple[list[dict[str, Any]], list[Preset]]:
    """AdamW groups (side × decay or not) of the trainable parameters, and the preset of each."""
    buckets: dict[tuple[Side, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            side = SIDES[part_of(name) or "encoder"]
            decayed = settings.preset(side).decay_all or parameter.ndim >= 2
            buckets.setdefault((side, decayed), []).append(parameter)
    groups, presets = [], []
    for (side, decayed), parameters in buckets.items():
        preset = settings.preset(side)
        decay = preset.weight_decay if decayed else 0.0
        groups.append(
            {
                "params": parameters,
                "lr": preset.lr,
                "betas": preset.betas,
                "eps": preset.eps,
                "weight_decay": decay,
                "name": side,
            }
        )
        presets.append(preset)
    return groups, presets


def _anneal(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * fraction))


def one_cycle(step: int, total: int, warmup: float, div: float = 100.0, final_div: float = 1e4) -> float:
    """Factor on the peak rate, equal to ``torch.optim.lr_scheduler.OneCycleLR(anneal_strategy="cos")``."""
    top, end = warmup * total - 1, total - 1
    if step <= top or top >= end:
        return _anneal(1 / div, 1.0, max(0.0, step / top) if top > 0 else 1.0)
    return _anneal(1.0, 1 / div / final_div, min(1.0, (step - top) / (end - top)))


def schedule(preset: Preset, total: int) -> Callable[[int], float]:
    """Step -> factor on the preset's learning rate.

    Args:
        total: number of optimiser steps of this rank over the whole training.
    """
    warm = max(1, round(preset.warmup * total))

    def factor(step: int) -> float:
        if preset.shape == "one_cycle":
            return one_cycle(min(step, total - 1), total, preset.warmup)
        if preset.warmup and step < warm:
            return (step + 1) / warm
        if preset.shape == "constant":
            return 1.0
        return _anneal(1.0, 0.0, min(1.0, (step - warm) / max(1, total - warm)))

    return factor


class GroupSchedule(torch.optim.lr_scheduler.LambdaLR):
    """One schedule per parameter group; cycles beta1 where the preset asks for the released behaviour."""

    def __init__(self, optimizer: torch.optim.Optimizer, presets: Iterable[Preset], total: int) -> None:
        self.presets = list(presets)
        self.total = total
        super().__init__(optimizer, [schedule(p, total) for p in self.presets])

    def get_lr(self) -> list[float | Tensor]:
        step = min(self.last_epoch, self.total - 1)
        for group, preset in zip(self.optimizer.param_groups, self.presets):
            if preset.cycle_beta1:
                group["betas"] = (self._beta1(step, preset.warmup), group["betas"][1])
        return super().get_lr()

    def state_dict(self) -> dict[str, Any]:
        """Plain values only, so that checkpoints load with ``weights_only=True``; presets come back from the config."""
        return {key: value for key, value in super().state_dict().items() if key != "presets"}

    def _beta1(self, step: int, warmup: float) -> float:
        top, end = warmup * self.total - 1, self.total - 1
        if step <= top:
            return _anneal(0.95, 0.85, max(0.0, step / top) if top > 0 else 1.0)
        return _anneal(0.85, 0.95, min(1.0, (step - top) / max(1e-9, end - top)))


def build_optimizer(model: nn.Module, settings: OptimSettings, total_steps: int) -> dict[str, Any]:
    """What ``configure_optimizers`` returns: AdamW with one group per side, stepped every optimiser step.

    Raises:
        ValueError: nothing trains.
    """
    groups, presets = parameter_groups(model, settings)
    if not groups:
        raise ValueError("no parameter trains: choose another policy or remove heads that have nothing to learn")
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    scheduler = GroupSchedule(optimizer, presets, max(1, total_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
