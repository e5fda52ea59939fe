"""From noise to latents: start noise per sample, guidance, and the loop over a scheduler's timesteps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from unifashion_pl import arguments
from unifashion_pl.generation.schedules import build_scheduler

#: (latents (B, C, h, w), timesteps (B,)) -> eps of the same shape as the latents.
NoisePredictor = Callable[[Tensor, Tensor], Tensor]
#: What the noise predictor reads beside latents and timesteps, by its name there.
Conditions = dict[str, Tensor]


def start_noise(seeds: Sequence[int], shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """N(0, I) of shape (len(seeds), *shape), each sample from a generator of its own.

    Drawn on the CPU, so that a seed gives the same picture whatever its batch and device.
    """
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in arguments.seeds(seeds)]
    return torch.stack(noise).to(device)


def scale_of(guidance: Any, name: str) -> float:
    """A scale of guidance: 1 = none, 0 = as if the condition were absent, a control.

    Raises:
        ValueError: not a number from 0.
    """
    expected = "a number from 0; 1 = none"
    scale = arguments.number(guidance, name, expected)
    if scale < 0:
        raise arguments.ArgumentError(f"{name} is {scale:g}, expected {expected}")
    return scale


def guided(
    predict: Callable[..., Tensor], conditions: Conditions, absent: Sequence[tuple[float, Conditions]]
) -> NoisePredictor:
    """Classifier-free guidance by any number of conditions, as one batched call.

    Every condition i is guided against its own absence, all others kept: eps + sum_i (s_i - 1) (eps - eps_i), which for one
    condition is the usual eps_u + s (eps_c - eps_u). A condition with scale 1 costs nothing.

    Args:
        predict: (latents, timesteps, **conditions) -> eps.
        conditions: of all rows, each (B, ...).
        absent: scale s_i and what takes the place of condition i where it is absent, e.g. ``(5.0, {"context": null})``.
    """
    away = [(scale, {**conditions, **without}) for scale, without in absent if scale != 1.0]
    if not away:
        return lambda latents, timesteps: predict(latents, timesteps, **conditions)
    rows = {name: torch.cat([value, *(other[name] for _, other in away)]) for name, value in conditions.items()}
    weights = [sum(scale - 1 for scale, _ in away) + 1, *(1 - scale for scale, _ in away)]

    def predictor(latents: Tensor, timesteps: Tensor) -> Tensor:
        n = len(weights)
        parts = predict(latents.repeat(n, 1, 1, 1), timesteps.repeat(n), **rows).chunk(n)
        return torch.stack([weight * part for weight, part in zip(weights, parts)]).sum(0)

    return predictor


def released_start(noise: Tensor, truth: Tensor, alpha_bar: Tensor) -> Tensor:
    """Start of the released code: the true picture's latents, noised to the last timestep.

    0.068 of the truth remain in it, and in a paired test the truth is the answer: results that start so have to say so.

    Args:
        noise, truth: (B, C, h, w).
        alpha_bar: (1000,).
    """
    level = alpha_bar[-1]
    return level.sqrt() * truth + (1 - level).sqrt() * noise


def sample(
    predict: NoisePredictor, noise: Tensor, *, sampler: str = "paper", steps: int | None = None, progress: bool = False
) -> Tensor:
    """Run a sampling preset from noise (B, C, h, w) to latents of the same shape, in float32.

    Args:
        progress: show a bar over the steps.

    Raises:
        ValueError: unknown sampler, or a number of steps outside 1 to 1000.
    """
    # The scheduler's own copy of the timesteps stays on the CPU, where it looks its tables up: on the device each step would wait for it.
    scheduler = build_scheduler(sampler, steps, "cpu")
    rows = scheduler.timesteps.to(noise.device)[:, None].expand(-1, len(noise))
    latents = noise.float() * scheduler.init_noise_sigma
    bar = tqdm(scheduler.timesteps, desc="painting", unit="step", disable=not progress, leave=False)
    for t, row in zip(bar, rows):
        eps = predict(scheduler.scale_model_input(latents, t), row)
        # A copy: multistep schedulers keep it, and a compiled predictor may write its next answer to the same place.
        latents = scheduler.step(eps.to(torch.float32, copy=True), t, latents).prev_sample
    return latents
