"""The diffusion process and the timesteps of every sampling preset, against formulas and diffusers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.utils import _device
from transformers import BertConfig, BertModel

from unifashion_pl.generation.schedules import (
    OFFSET_GRIDS,
    SAMPLERS,
    add_noise,
    alphas_cumprod,
    build_scheduler,
    draw_timesteps,
    training_noise,
)

#: Stable Diffusion's process in float64: beta linear in its square root.
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ALPHA_BAR = np.cumprod(1 - BETAS)


def karras_timesteps(steps: int, rho: float = 7.0) -> list[int]:
    """Sigmas equally spaced in sigma^(1/rho) (Karras et al. 2022, Eq. 5), each at its nearest timestep."""
    log_sigmas = 0.5 * np.log((1 - ALPHA_BAR) / ALPHA_BAR)
    low, high = np.exp(log_sigmas[[0, -1]] / rho)
    sigmas = np.linspace(high, low, steps) ** rho
    return np.interp(np.log(sigmas), log_sigmas, np.arange(1000)).round().astype(int).tolist()


EXPECTED = {
    "paper": [981, 961, *range(961, 0, -20)],
    "fast": list(range(999, 0, -50)),
    "dpmpp": list(range(999, 0, -50)),
    "dpmpp_karras": karras_timesteps(20),
    "ddim": list(range(981, 0, -20)),
}


def test_alpha_bar_follows_the_formula_and_is_not_zero_at_the_end() -> None:
    alpha_bar = alphas_cumprod()
    assert alpha_bar.dtype == torch.float32
    torch.testing.assert_close(alpha_bar.double(), torch.from_numpy(ALPHA_BAR), atol=1e-6, rtol=0)
    assert float(alpha_bar[-1]) == pytest.approx(0.0046601, abs=1e-6)


def test_alpha_bar_is_where_the_model_is_though_transformers_was_the_first_to_enter_a_device(tmp_path: Path) -> None:
    """As in a process that loads BLIP-2 before anything else; torch keeps the constructors that it saw then."""
    BertModel(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path)
    _device._device_constructors.cache_clear()
    try:
        BertModel.from_pretrained(tmp_path)
        with torch.device("meta"):
            assert alphas_cumprod().device.type == "meta"
    finally:
        _device._device_constructors.cache_clear()
    assert alphas_cumprod().device.type == "cpu"


@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (5, 7)])
def test_noise_is_added_as_in_the_formula_and_in_diffusers(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    latents, noise = torch.randn(shape), torch.randn(shape)
    timesteps = torch.tensor([0, 1, 400, 998, 999])
    noisy = add_noise(latents, noise, timesteps, alphas_cumprod())
    level = ALPHA_BAR[timesteps.numpy()].reshape(-1, *[1] * (len(shape) - 1))
    expected = np.sqrt(level) * latents.numpy() + np.sqrt(1 - level) * noise.numpy()
    torch.testing.assert_close(noisy.double(), torch.from_numpy(expected), atol=1e-5, rtol=0)
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(noisy, theirs.add_noise(latents, noise, timesteps), atol=1e-6, rtol=0)  # type: ignore[arg-type]


def test_timesteps_are_drawn_as_often_as_min_snr_weighs_them() -> None:
    """So the mean of a quantity over drawn timesteps is its mean with Min-SNR's weights over uniform ones."""
    torch.manual_seed(0)
    alpha_bar = alphas_cumprod()
    level = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    snr = level / (1 - level)
    for gamma, velocity in ((0.05, False), (1.0, torch.tensor(0)), (1.0, torch.tensor(1)), (0.004, True)):
        weights = np.minimum(snr, gamma) / (snr + float(velocity))
        drawn = draw_timesteps(200_000, alpha_bar, gamma, velocity).numpy()
        for quantity in (np.arange(1000), np.sqrt(level)):
            expected = (weights * quantity).sum() / weights.sum()
            assert quantity[drawn].mean() == pytest.approx(expected, rel=0.01)
    uniform = draw_timesteps(200_000, alpha_bar).numpy()
    assert (uniform.min(), uniform.max()) == (0, 999)
    assert np.bincount(uniform // 100).min() > 19_000


def test_noise_without_offset_is_white() -> None:
    latents = torch.zeros(3, 4, 8, 6)
    torch.manual_seed(5)
    noise = training_noise(latents)
    torch.manual_seed(5)
    assert torch.equal(noise, torch.randn(3, 4, 8, 6))


def test_offsets_hide_the_mean_of_large_areas() -> None:
    """On a grid of one cell it is offset noise, noise += offset * randn(B, C, 1, 1); finer grids add to the variance of their areas' means."""
    torch.manual_seed(0)
    noise = training_noise(torch.zeros(1500, 4, 32, 32), 0.5)
    whole = noise.mean((2, 3))
    white, grids = 1 / 32**2, sum(0.25 / cells**2 for cells in OFFSET_GRIDS)
    assert whole.var().item() == pytest.approx(white + grids, rel=0.1)
    corner = noise[..., :4, :4].mean((2, 3)).var().item()
    assert corner > 0.25 * 3, "three of four grids are coarser than the corner; white noise has 1 / 16"
    assert noise[..., 1:, :].sub(noise[..., :-1, :]).var().item() == pytest.approx(2.0, rel=0.1), (
        "neighbours differ as in white noise"
    )
    small = training_noise(torch.zeros(2, 4, 3, 5), 0.5)
    assert small.shape == (2, 4, 3, 5), "grids are never finer than the latents"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_timesteps_of_a_preset(sampler: str) -> None:
    scheduler = build_scheduler(sampler)
    assert scheduler.timesteps.tolist() == EXPECTED[sampler]
    assert len(EXPECTED[sampler]) == {"paper": 51, "ddim": 50}.get(sampler, 20)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_preset_runs_the_process_that_is_trained(sampler: str) -> None:
    scheduler = build_scheduler(sampler)
    torch.testing.assert_close(scheduler.alphas_cumprod, alphas_cumprod(), atol=1e-6, rtol=0)
    assert scheduler.config.prediction_type == "epsilon"
    assert scheduler.init_noise_sigma == 1.0


def test_the_number_of_steps_can_be_changed() -> None:
    assert build_scheduler("fast", 4).timesteps.tolist() == [999, 749, 499, 249]
    assert build_scheduler("paper", 5).timesteps.tolist() == [801, 601, 601, 401, 201, 1]
    assert build_scheduler("ddim", 1).timesteps.tolist() == [1]


def test_unknown_samplers_and_impossible_numbers_of_steps_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown sampler 'euler'; known are paper, fast, dpmpp, dpmpp_karras, ddim"):
        build_scheduler("euler")
    for steps in (0, -3, 1001):
        with pytest.raises(ValueError, match=f"1 to 1000 steps, got {steps}"):
            build_scheduler("fast", steps)
    for sampler in ("paper", "ddim"):
        with pytest.raises(ValueError, match="at most 999 steps, got 1000"):
            build_scheduler(sampler, 1000)
