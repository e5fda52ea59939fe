"""The diffusion process, the ways to run it backwards (sampling presets as data), and the loop from noise to latents, with guidance.

Every preset shares the process of Stable Diffusion 1.x. A preset may be exchanged without retraining; its timestep spacing belongs to
it and is not to be mixed with another solver's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from unifashion_pl import arguments

TRAIN_STEPS = 1000

#: beta 0.00085 to 0.012, linear in sqrt(beta), eps-prediction.
PROCESS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": TRAIN_STEPS,
    "prediction_type": "epsilon",
}

#: Names of predictions in schedulers' configs of diffusers -> ours.
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
#: Fields that change the process beside those of :data:`PROCESS`.
OTHER_PROCESS = ("trained_betas", "rescale_betas_zero_snr", "use_flow_sigmas")

#: (latents (B, C, h, w), timesteps (B,)) -> eps of the same shape as the latents.
NoisePredictor = Callable[[Tensor, Tensor], Tensor]
#: What the noise predictor reads beside latents and timesteps, by its name there.
Conditions = dict[str, Tensor]


def prediction_of(config: Mapping[str, Any], where: object) -> str:
    """What a U-Net predicts (``epsilon`` or ``v``) by the config of its pipeline's scheduler, as diffusers writes it.

    What a field leaves out is its class's default. How a publisher samples (class, timestep spacing, ``steps_offset``, clipping) is no part
    of what was trained: here the presets of :data:`SAMPLERS` say it.

    Raises:
        ValueError: no fields, neither eps nor v, or another diffusion process than :data:`PROCESS`, by the fields' names.
    """
    import diffusers

    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: its scheduler_config.json holds a {type(config).__name__}, expected fields of a scheduler")
    known = getattr(diffusers, str(config.get("_class_name")), None)
    usual = PROCESS if "_class_name" not in config else {}
    if known is not None:
        usual = {name: parameter.default for name, parameter in signature(known).parameters.items()}
    fields = {"prediction_type": "epsilon", **usual, **config}
    kind = PREDICTIONS.get(fields["prediction_type"])
    odd = {name: fields.get(name) for name, value in PROCESS.items() if name != "prediction_type" and fields.get(name) != value}
    odd |= {name: fields[name] for name in OTHER_PROCESS if fields.get(name)}
    if kind is None or odd:
        under = f" under {odd} ({config.get('_class_name')})" if odd else ""
        raise ValueError(
            f"{where} was trained for {fields['prediction_type']}{under}; known are {', '.join(PREDICTIONS)} under {PROCESS}. To train its U-Net "
            "further all the same, name the folder of its U-Net alone as source"
        )
    return kind


@dataclass(frozen=True)
class Sampler:
    """A scheduler class of diffusers, how many steps it takes by default, and its arguments beside :data:`PROCESS`."""

    scheduler: str
    steps: int
    arguments: dict[str, Any] = field(default_factory=dict)


_UNIPC = {"solver_order": 2, "timestep_spacing": "trailing"}
_DPMPP = {"algorithm_type": "dpmsolver++", **_UNIPC}

SAMPLERS: dict[str, Sampler] = {
    # The paper's 50 PLMS steps: 51 evaluations, the second timestep twice.
    "paper": Sampler("PNDMScheduler", 50, {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
    "fast": Sampler("UniPCMultistepScheduler", 20, _UNIPC),
    # Named in the paper's Limitations.
    "dpmpp": Sampler("DPMSolverMultistepScheduler", 20, _DPMPP),
    "dpmpp_karras": Sampler("DPMSolverMultistepScheduler", 20, {**_DPMPP, "use_karras_sigmas": True}),
    # 5 times as fast as the paper's, whose pictures it is nearer to than "fast" is, on the toy (benchmarks/RESULTS.md).
    "few": Sampler("DPMSolverMultistepScheduler", 8, {**_DPMPP, "use_karras_sigmas": True}),
    "ddim": Sampler("DDIMScheduler", 50, {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False}),
}


def steps_of(sampler: str, steps: int | None = None) -> int:
    """``steps``, or the preset's number.

    Raises:
        ValueError: unknown sampler, or a number of steps outside 1 to 1000.
    """
    sampler = arguments.choice(sampler, "sampler", SAMPLERS)
    steps = SAMPLERS[sampler].steps if steps is None else arguments.whole(steps, "steps")
    if not 1 <= steps <= TRAIN_STEPS:
        raise ValueError(f"sampling takes 1 to {TRAIN_STEPS} steps, got {steps}")
    return steps


def build_scheduler(sampler: str, steps: int | None = None, device: torch.device | str | None = None) -> Any:
    """A fresh scheduler of diffusers with its timesteps set.

    Args:
        sampler: a key of :data:`SAMPLERS`.
        steps: None = the preset's number.

    Raises:
        ValueError: unknown sampler, or a number of steps outside 1 to 1000.
    """
    import diffusers

    steps, preset = steps_of(sampler, steps), SAMPLERS[sampler]
    scheduler = getattr(diffusers, preset.scheduler)(**PROCESS, **preset.arguments)
    scheduler.set_timesteps(steps, device=device)
    if int(scheduler.timesteps.max()) >= TRAIN_STEPS:
        raise ValueError(f"sampler {sampler!r} takes at most {TRAIN_STEPS - 1} steps, got {steps}")
    return scheduler


def alphas_cumprod() -> Tensor:
    """alpha_bar (1000,) float32: the share of signal power left at each timestep; 0.0046601 at the last, not zero.

    The default device is asked for by name: transformers (5) replaces ``torch.linspace`` while it loads a model, and torch remembers for
    good what it was when a process first enters a ``torch.device`` context. If that was the replacement, linspace ignores such contexts.
    """
    first, last = PROCESS["beta_start"] ** 0.5, PROCESS["beta_end"] ** 0.5
    betas = torch.linspace(first, last, TRAIN_STEPS, dtype=torch.float32, device=torch.empty(0).device) ** 2
    return torch.cumprod(1 - betas, 0)


def signal_of(timesteps: Tensor, alpha_bar: Tensor, ndim: int = 4) -> Tensor:
    """alpha_bar (1000,) at timesteps (B,) int64 -> (B, 1, …) of ``ndim`` dimensions."""
    return alpha_bar[timesteps].view(-1, *[1] * (ndim - 1))


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alpha_bar: Tensor) -> Tensor:
    """z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps; latents and noise (B, ...), timesteps (B,), alpha_bar (1000,)."""
    signal = signal_of(timesteps, alpha_bar, latents.ndim)
    return signal.sqrt() * latents + (1 - signal).sqrt() * noise


def draw_timesteps(rows: int, alpha_bar: Tensor, snr_gamma: float | None = None, velocity: Tensor | bool = False) -> Tensor:
    """(rows,) timesteps for a training step: uniform, or each as often as Min-SNR (arXiv 2303.09556) weighs it.

    Its paper weighs the losses of uniform timesteps by min(SNR, gamma) / SNR, of eps, or min(SNR, gamma) / (SNR + 1), of v: either way the
    error of the picture counts min(SNR, gamma). Drawing gives the same gradient on average, up to a factor, and no step is spent on what
    hardly counts. With a gamma below the smallest SNR (0.00468) the picture's error counts alike at all timesteps.

    Args:
        velocity: the loss is of v (bool or a tensor of one).
    """
    if snr_gamma is None:
        return torch.randint(0, TRAIN_STEPS, (rows,), device=alpha_bar.device)
    snr = alpha_bar / (1 - alpha_bar)
    weights = snr.clamp(max=snr_gamma) / (snr + torch.as_tensor(velocity, device=snr.device).to(snr))
    return torch.multinomial(weights, rows, replacement=True)


#: Cells per side of the grids on which :func:`training_noise` draws offsets.
OFFSET_GRIDS = (1, 2, 4, 8)


def training_noise(latents: Tensor, offset: float = 0.0) -> Tensor:
    """N(0, I) of the latents' shape (B, C, h, w), plus N(0, offset²) on coarse grids, bilinear in between.

    White noise hardly hides the mean of a large area: at the last timestep its signal-to-noise ratio is 0.0047 per value, but about 1 over
    200 values. So a model learns to read colours off the noise, and sampling, which starts from noise alone, paints random ones
    (arXiv 2305.08891, §3.1). Offsets (offset noise; pyramid noise) hide areas of every size, and what is asked for has to be looked up in
    the conditions. Sampling starts from white noise either way: offsets of 0.
    """
    noise = torch.randn_like(latents)
    for cells in OFFSET_GRIDS if offset else ():
        grid = [min(cells, side) for side in latents.shape[-2:]]
        coarse = torch.randn(*latents.shape[:2], *grid, device=latents.device, dtype=latents.dtype)
        noise = noise + offset * F.interpolate(coarse, latents.shape[-2:], mode="bilinear")
    return noise


def start_noise(seeds: Sequence[int], shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """N(0, I) of shape (len(seeds), *shape), each sample from a generator of its own.

    Drawn on the CPU, so that a seed gives the same picture whatever its batch and device.
    """
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in arguments.seeds(seeds)]
    return torch.stack(noise).to(device)


def scale_of(guidance: Any, name: str, zero: bool = True) -> float:
    """A scale of guidance: 1 = none, 0 = as if the condition were absent, a control.

    Raises:
        ValueError: not a number from 0, or without ``zero`` not above it.
    """
    expected = f"a number {'from' if zero else 'above'} 0; 1 = none"
    scale = arguments.number(guidance, name, expected)
    if scale < 0 or not (scale or zero):
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
    return add_noise(truth, noise, torch.full((len(noise),), TRAIN_STEPS - 1, device=alpha_bar.device), alpha_bar)


def sample(
    predict: NoisePredictor,
    noise: Tensor,
    *,
    sampler: str = "paper",
    steps: int | None = None,
    progress: bool = False,
    below: tuple[float, NoisePredictor] | None = None,
) -> Tensor:
    """Run a sampling preset from noise (B, C, h, w) to latents of the same shape, in float32.

    Args:
        progress: show a bar over the steps.
        below: a timestep, and what predicts in the place of ``predict`` at those below it.

    Raises:
        ValueError: unknown sampler, or a number of steps outside 1 to 1000.
    """
    # The scheduler's own copy of the timesteps stays on the CPU, where it looks its tables up: on the device each step would wait for it.
    scheduler = build_scheduler(sampler, steps, "cpu")
    rows = scheduler.timesteps.to(noise.device)[:, None].expand(-1, len(noise))
    latents = noise.float() * scheduler.init_noise_sigma
    bar = tqdm(scheduler.timesteps, desc="painting", unit="step", disable=not progress, leave=False)
    for t, row in zip(bar, rows):
        asked = predict if below is None or t >= below[0] else below[1]
        eps = asked(scheduler.scale_model_input(latents, t), row)
        # A copy: multistep schedulers keep it, and a compiled predictor may write its next answer to the same place.
        latents = scheduler.step(eps.to(torch.float32, copy=True), t, latents).prev_sample
    return latents
