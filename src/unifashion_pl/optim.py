"""Optimiser and schedule presets: the paper's values, the released code's, and ours (where they differ, with the reason)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn

from unifashion_pl.freezing import Side, part_named, part_of
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
        further: of heads of somebody's own.
        qformer_lr, llm_lr, diffusion_lr, further_lr: peak learning rates, None = the preset's.
        vision_lr: peak learning rate of a vision tower that trains, None = the Q-Former's. A tower from random weights needs a
            higher one: what reaches it through the Q-Former is small and noisy.
        warmup: warm-up fraction of all one-cycle presets; None = the preset's. The papers' recipe is min(1.5 / epochs, 0.75).
        betas, eps, weight_decay: of all sides, None = the preset's. What is decayed at all is the preset's to say.
        fused: AdamW as one kernel over all parameters of a group; None = where all that trains lies on GPUs, or all on the CPU and in rows
            (not ``channels_last``). The steps are the same.
        optimizer: makes another optimiser than AdamW out of the parameter groups, a class as in ``{class_path: torch.optim.SGD, init_args:
            {momentum: 0.9}}``. Groups bring their learning rates, and of betas, eps and weight decay what the class knows.
        scheduler: makes another schedule than the presets' out of the optimiser, stepped after every optimiser step, or, as
            ``lightning.pytorch.cli.ReduceLROnPlateau``, after an epoch.

    Raises:
        ValueError: unknown preset name.
    """

    qformer: str = "retrieval"
    llm: str = "llm"
    diffusion: str = "diffusion"
    further: str = "retrieval"
    qformer_lr: float | None = None
    llm_lr: float | None = None
    diffusion_lr: float | None = None
    further_lr: float | None = None
    vision_lr: float | None = None
    warmup: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    fused: bool | None = None
    optimizer: OptimizerCallable | None = None
    scheduler: LRSchedulerCallable | None = None

    def __post_init__(self) -> None:
        for side in ("qformer", "llm", "diffusion", "further"):
            if (name := getattr(self, side)) not in PRESETS:
                raise ValueError(unknown(f"optimiser preset of {side}", name, PRESETS))

    def preset(self, side: Side) -> Preset:
        """The preset of a side with what overrides it."""
        if side == "vision":
            name, lr = self.qformer, self.qformer_lr if self.vision_lr is None else self.vision_lr
        else:
            name, lr = getattr(self, side), getattr(self, f"{side}_lr")
        asked: dict[str, Any] = {"lr": lr, "betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        preset = replace(PRESETS[name], **{field: value for field, value in asked.items() if value is not None})
        if self.warmup is not None and preset.shape == "one_cycle":
            preset = replace(preset, warmup=self.warmup)
        return preset

    def at(self, rate: float) -> OptimSettings:
        """The same presets with one peak learning rate for all sides."""
        return replace(self, qformer_lr=rate, llm_lr=rate, diffusion_lr=rate, further_lr=rate, vision_lr=None)


def parameter_groups(model: nn.Module, settings: OptimSettings) -> tuple[list[dict[str, Any]], list[Preset]]:
    """AdamW groups of the trainable parameters, and the preset of each.

    A group is a side (``qformer``), or those of its parameters that weight decay leaves alone (``qformer/no_decay``).
    """
    buckets: dict[tuple[Side, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            side = part_named(part_of(name) or "encoder").side
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
            f"(optim: qformer, llm, diffusion, further), of {', '.join(name for name, other in PRESETS.items() if other.endless)}"
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

    A resumed one keeps its place and follows what is asked for now: another length, other peaks. A peak that was set by
    :meth:`set_peak` stays as long as the preset's is the same as then.

    Args:
        total: as in :func:`schedule`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, presets: Iterable[Preset], total: int | None) -> None:
        self.presets = list(presets)
        self.total = total
        self.asked = [preset.lr for preset in self.presets]
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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the place, and peaks that were set."""
        total, asked, peaks = self.total, self.asked, self.base_lrs
        super().load_state_dict(state_dict)
        if state_dict.get("asked", state_dict["base_lrs"]) != asked:
            self.base_lrs = peaks
        self.asked = asked
        self.follow(total)

    def follow(self, total: int | None) -> None:
        """Go on as a schedule of this length from where it is.

        Raises:
            ValueError: as :func:`schedule`.
        """
        self.total = total
        self.lr_lambdas = [schedule(preset, total) for preset in self.presets]
        for group, base, rate in zip(self.optimizer.param_groups, self.base_lrs, self.get_lr()):
            group["initial_lr"], group["lr"] = base, rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def build_optimizer(model: nn.Module, settings: OptimSettings, total_steps: float) -> dict[str, Any]:
    """What ``configure_optimizers`` returns: an optimiser with the groups of :func:`parameter_groups`, and a schedule stepped with it.

    Of a checkpoint the optimiser takes the moments; betas, eps and decay are those that are asked for now.

    Args:
        total_steps: Lightning's ``estimated_stepping_batches``: infinite, or -1 with loaders of unknown length, if there is no end.

    Raises:
        ValueError: nothing trains, or a schedule that needs an end for a training without one.
    """
    groups, presets = parameter_groups(model, settings)
    if not groups:
        raise ValueError("no parameter trains: choose another policy or remove heads that have nothing to learn")
    optimizer = _optimizer(groups, settings)
    fixed = [{name: value for name, value in group.items() if name not in ("params", "lr")} for group in optimizer.param_groups]

    def rename(loaded: torch.optim.Optimizer) -> None:
        """A loaded state brings its groups along: their names, which older checkpoints have twice, and settings."""
        for group, own in zip(loaded.param_groups, fixed):
            group.update(own)
        _place_states(loaded)

    optimizer.register_load_state_dict_post_hook(rename)
    if settings.scheduler is not None:
        other = settings.scheduler(optimizer)
        if isinstance(other, ReduceLROnPlateau):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": other, "monitor": other.monitor}}
        if isinstance(other, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ValueError(
                "optim.scheduler is torch's ReduceLROnPlateau, which does not say whose value it waits for: name "
                "lightning.pytorch.cli.ReduceLROnPlateau with a monitor"
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": other, "interval": "step"}}
    ends = 0 <= total_steps < math.inf
    scheduler = GroupSchedule(optimizer, presets, max(1, int(total_steps)) if ends else None)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _optimizer(groups: list[dict[str, Any]], settings: OptimSettings) -> torch.optim.Optimizer:
    """AdamW, or the optimiser that is asked for, whose groups hold nothing that it does not know."""
    if settings.optimizer is None:
        return _adamw(groups, settings.fused)
    if settings.fused is not None:
        raise ValueError("optim.fused is a setting of AdamW, and optim.optimizer names another: say it in its init_args")
    known = {*settings.optimizer([nn.Parameter(torch.zeros(1))]).defaults, "params", "name"}
    if lost := [name for name in ("betas", "eps") if getattr(settings, name) is not None and name not in known]:
        raise ValueError(f"optim.{lost[0]} is set, which the optimiser that optim.optimizer names does not have: leave it out")
    return settings.optimizer([{name: value for name, value in group.items() if name in known} for group in groups])


def _adamw(groups: list[dict[str, Any]], fused: bool | None) -> torch.optim.AdamW:
    """AdamW whose gradients are unscaled and clipped outside of its step, fused or not."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    kinds = {parameter.device.type for parameter in parameters}
    # a CPU's kernel walks storage and looks at no strides: gradients and states that somebody lays otherwise than parameters are read wrong
    usual = kinds == {"cuda"} or (kinds == {"cpu"} and all(parameter.is_contiguous() for parameter in parameters))
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=(usual if fused is None else fused) or None)
    # of a fused one Lightning would refuse to clip, because torch offers to unscale gradients inside its step
    optimizer._step_supports_amp_scaling = False
    return optimizer


def _place_states(optimizer: torch.optim.Optimizer) -> None:
    """Put AdamW's loaded state where the kernels read it, whichever kernels made it: numbers of steps beside a fused one's parameters, moments
    in the memory layout of their parameter, which a fused kernel of a CPU takes for granted.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if "fused" in group else ():
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if name == "step" and isinstance(value, Tensor):
                    state[name] = value.to(parameter.device if group["fused"] else "cpu", torch.float32)
                elif isinstance(value, Tensor):
                    state[name] = laid_as(value, parameter)


def laid_as(value: Tensor, parameter: Tensor) -> Tensor:
    """A tensor of a parameter's shape (or any other, as it is) in the parameter's memory layout."""
    if value.shape != parameter.shape or value.stride() == parameter.stride() or value.layout != torch.strided:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device, requires_grad=False).copy_(value)
