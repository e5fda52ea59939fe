"""Noise schedule and sampling presets: diffusers schedulers with Stable Diffusion's betas.

A scheduler is any diffusers class with these betas; switching needs no retraining.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import diffusers
from diffusers import DDPMScheduler

#: beta 0.00085 to 0.012, linear in sqrt(beta), 1000 steps, eps-prediction (Stable Diffusion 1.x).
BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler class, its arguments beside :data:`BETAS`, and the number of steps."""

    scheduler: str
    steps: int
    arguments: dict[str, Any] = field(default_factory=dict)


_TRAILING = {"solver_order": 2, "timestep_spacing": "trailing"}

SAMPLERS: dict[str, Sampler] = {
    # The paper's 50 PLMS steps (51 evaluations).
    "paper": Sampler("PNDMScheduler", 50, {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
    "fast": Sampler("UniPCMultistepScheduler", 20, _TRAILING),
    # Named in the paper's Limitations.
    "dpmpp": Sampler("DPMSolverMultistepScheduler", 20, {"algorithm_type": "dpmsolver++", **_TRAILING}),
    "ddim": Sampler("DDIMScheduler", 50, {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False}),
}


def training_schedule() -> DDPMScheduler:
    """The forward process of L_q2I (Eqs. 7, 12)."""
    return DDPMScheduler(**BETAS, clip_sample=False)


def build_scheduler(name: str, steps: int | None = None) -> Any:
    """A fresh scheduler with its timesteps set.

    Args:
        name: a key of :data:`SAMPLERS`.
        steps: overrides the preset's number.

    Raises:
        ValueError: unknown name, or fewer than one step.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; known are {', '.join(SAMPLERS)}")
    if steps is not None and steps < 1:
        raise ValueError(f"sampling needs at least one step, got {steps}")
    preset = SAMPLERS[name]
    scheduler = getattr(diffusers, preset.scheduler)(**BETAS, **preset.arguments)
    scheduler.set_timesteps(steps or preset.steps)
    return scheduler
