"""Optimiser and schedule presets: the paper's values, the released code's, and ours (where they differ, with the reason)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unifashion_pl.freezing import PARTS, Side, part_of
from unifashion_pl.names import unknown

Shape = Literal["one_cycle", "cosine", "constant"]


@dataclass(frozen=True)
class Preset:
    """AdamW and schedule of one side.

    Attributes:
        lr: peak learning rate. betas, eps, weight_decay: AdamW's.
        decay_all: decay every parameter, LayerNorms and biases too (released code); else ndim >= 2 only.
        shape: ``one_cycle`` (PyTorch's cosine one-cycle), ``cosine`` with warm-up, or ``constant`` with warm-up.
        warmup: fraction of all steps; every shape but ``constant`` without it needs to know how many there are.
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

    @property
    def endless(self) -> bool:
        """Whether a training without an end can follow it."""
        return self.shape == "constant" and not self.warmup


_RETRIEVAL = Preset(lr=2e-5, betas=(0.9, 0.98), eps=1e-7, weight_decay=0.05, shape="one_cycle", warmup=0.1)

PRESETS: dict[str, Preset] = {
    # the paper is silent: the released code's, with decay and beta1 as they were meant
    "retrieval": _RETRIEVAL,
    "retrieval_released": replace(_RETRIEVAL, decay_all=True, cycle_beta1=True),
    "qformer_llm_released": replace(_RETRIEVAL, lr=2e-4, warmup=0.75, decay_all=True, cycle_beta1=True),
    # App. B
    "llm": Preset(lr=2e-5, betas=(0.9, 0.99), shape="cosine", warmup=0.03),
    "llm_released": Preset(lr=2e-4, shape="cosine", warmup=0.03),
    # for trainings whose length nobody knows beforehand
    "retrieval_constant": replace(_RETRIEVAL, shape="constant", warmup=0.0),
    "llm_constant": Preset(lr=2e-5, betas=(0.9, 0.99), shape="constant"),
    # rate: App. B; betas and decay: AdamW's own, as in the released code
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
            raise ValueError(unknown(f"optimiser preset of {side}", name, PRESETS))
        preset = PRESETS[name]
        if lr is not None:
            preset = replace(preset, lr=lr)
        if self.warmup is not None and preset.shape == "one_cycle":
            preset = replace(preset, warmup=self.warmup)
        return preset

    def at(self, rate: float) -> OptimSettings:
        """The same presets with one peak learning rate for all sides."""
        return replace(self, qformer_lr=rate, llm_lr=rate, diffusion_lr=rate, vision_lr=None)


def parameter_groups(model: nn.Module, settings: OptimSettings) -> tuple[list[dict[str, Any]], list[Preset]]:
    """AdamW groups of the trainable parameters, and the preset of each.

    A group is a side (``qformer``), or those of its parameters that weight decay leaves alone (``qformer/no_decay``).
    """
    buckets: dict[tuple[Side, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            side = PARTS[part_of(name) or "encoder"].side
            decayed = settings.preset(side).decay_all or parameter.ndim >= 2
            buckets.setdefault((side, decayed), []).append(parameter)
    groups, presets = [], []
    for (side, decayed), parameters in buckets.items():
        preset = settings.preset(side)
        decay, name = (preset.weight_decay, side) if decayed else (0.0, f"{side}/no_decay")
        values = {name: getattr(preset, name) for name in ("lr", "betas", "eps")}
        groups.append({"params": parameters, **values, "weight_decay": decay, "name": name})
        presets.append(preset)
    return groups, presets


def _anneal(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * fraction))


def one_cycle(step: int, total: int, warmup: float, div: float = 100.0, final_div: float = 1e4) -> float:
    """Factor on the peak rate, equal to ``torch.optim.lr_scheduler.OneCycleLR(anneal_strategy="cos")``."""
    return _cycle(step, total, warmup, 1 / div, 1.0, 1 / div / final_div)


def _cycle(step: int, total: int, warmup: float, start: float, peak: float, end: float) -> float:
    top, last = warmup * total - 1, total - 1
    if step <= top or top >= last:
        return _anneal(start, peak, max(0.0, step / top) if top > 0 else 1.0)
    return _anneal(peak, end, min(1.0, (step - top) / (last - top)))


def schedule(preset: Preset, total: int | None) -> Callable[[int], float]:
    """Step -> factor on the preset's learning rate.

    Args:
        total: number of optimiser steps of this rank over the whole training; None = it has no end.

    Raises:
        ValueError: the preset needs an end.
    """
    if preset.endless:
        return lambda step: 1.0
    if total is None:
        raise ValueError(
            f"the learning rate's schedule ({preset.shape}, warm-up {preset.warmup:g}) follows the length of the training, and this one "
            "has no end: set max_steps or max_epochs of the trainer, or give each side that trains a preset with a constant rate "
            f"(optim: qformer, llm, diffusion), of {', '.join(name for name, other in PRESETS.items() if other.endless)}"
        )
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
    """One schedule per parameter group; cycles beta1 where the preset asks for the released behaviour.

    Args:
        total: as in :func:`schedule`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, presets: Iterable[Preset], total: int | None) -> None:
        self.presets = list(presets)
        self.total = total
        super().__init__(optimizer, [schedule(p, total) for p in self.presets])

    def get_lr(self) -> list[float | Tensor]:
        for group, preset in zip(self.optimizer.param_groups, self.presets):
            if preset.cycle_beta1 and self.total is not None:
                beta1 = _cycle(min(self.last_epoch, self.total - 1), self.total, preset.warmup, 0.95, 0.85, 0.95)
                group["betas"] = (beta1, group["betas"][1])
        return super().get_lr()

    def set_peak(self, rate: float) -> None:
        """Let the schedules go on around another peak learning rate, one for all groups."""
        self.base_lrs = [rate for _ in self.base_lrs]
        for group, factor in zip(self.optimizer.param_groups, self.lr_lambdas):
            group["initial_lr"], group["lr"] = rate, rate * factor(self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Plain values only, so that checkpoints load with ``weights_only=True``; presets come back from the config."""
        return {key: value for key, value in super().state_dict().items() if key != "presets"}


def build_optimizer(model: nn.Module, settings: OptimSettings, total_steps: float) -> dict[str, Any]:
    """What ``configure_optimizers`` returns: AdamW with the groups of :func:`parameter_groups`, stepped every optimiser step.

    Args:
        total_steps: Lightning's ``estimated_stepping_batches``: infinite, or -1 with loaders of unknown length, if there is no end.

    Raises:
        ValueError: nothing trains, or a schedule that needs an end for a training without one.
    """
    groups, presets = parameter_groups(model, settings)
    if not groups:
        raise ValueError("no parameter trains: choose another policy or remove heads that have nothing to learn")
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    names = [group["name"] for group in groups]

    def rename(loaded: torch.optim.Optimizer) -> None:
        """A loaded state brings the names of its groups along; older checkpoints have the same name for both groups of a side."""
        for group, name in zip(loaded.param_groups, names):
            group["name"] = name

    optimizer.register_load_state_dict_post_hook(rename)
    ends = 0 <= total_steps < math.inf
    scheduler = GroupSchedule(optimizer, presets, max(1, int(total_steps)) if ends else None)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
