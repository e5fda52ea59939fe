"""From noise to latents: start noise per sample, guidance, and the loop over a scheduler's timesteps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from unifashion_pl.generation.schedules import build_scheduler

#: (latents (B, C, h, w), timesteps (B,)) -> eps of the same shape as the latents.
NoisePredictor = Callable[[Tensor, Tensor], Tensor]


def start_noise(seeds: Sequence[int], shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """N(0, I) of shape (len(seeds), *shape), each sample from a generator of its own.

    Drawn on the CPU, so that a seed gives the same picture whatever its batch and device.
    """
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise).to(device)


def guided(predict: Callable[[Tensor, Tensor, Tensor], Tensor], context: Tensor, null: Tensor, scale: float) -> NoisePredictor:
    """Classifier-free guidance, eps_u + scale (eps_c - eps_u), as one batched call; at scale 1 the null context is not computed.

    Args:
        predict: (latents, timesteps, context) -> eps. It is called with 2B rows when ``scale`` is not 1.
        context, null: (B, N, C) with and without the condition.
    """
    if scale == 1.0:
        return lambda latents, timesteps: predict(latents, timesteps, context)
    both = torch.cat([null, context])

    def predictor(latents: Tensor, timesteps: Tensor) -> Tensor:
        without, with_context = predict(latents.repeat(2, 1, 1, 1), timesteps.repeat(2), both).chunk(2)
        return without + scale * (with_context - without)

    return predictor


def sample(
    predict: NoisePredictor, noise: Tensor, *, sampler: str = "paper", steps: int | None = None, progress: bool = False
) -> Tensor:
    """Run a sampling preset from pure noise (B, C, h, w) to latents of the same shape, in float32.

    Raises:
        ValueError: unknown sampler, or a number of steps outside 1 to 1000.
    """
    scheduler = build_scheduler(sampler, steps, noise.device)
    latents = noise.float() * scheduler.init_noise_sigma
    for t in tqdm(scheduler.timesteps, desc="painting", unit="step", disable=not progress, leave=False):
        model_input = scheduler.scale_model_input(latents, t)
        eps = predict(model_input, t.expand(latents.shape[0]).to(latents.device))
        latents = scheduler.step(eps.float(), t, latents).prev_sample
    return latents
