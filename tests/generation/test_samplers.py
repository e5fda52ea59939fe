"""The diffusion process, sampling presets, loop, guidance and seeds, against formulas, diffusers and numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from small import UNET
from torch import Tensor
from torch.utils import _device
from transformers import BertConfig, BertModel

from unifashion_pl.generation import Denoiser
from unifashion_pl.generation.samplers import (
    OFFSET_GRIDS,
    SAMPLERS,
    add_noise,
    alphas_cumprod,
    build_scheduler,
    draw_timesteps,
    guided,
    released_start,
    sample,
    start_noise,
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
    "few": karras_timesteps(8),
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
    assert len(EXPECTED[sampler]) == {"paper": 51, "ddim": 50, "few": 8}.get(sampler, 20)


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
    with pytest.raises(ValueError, match="unknown sampler 'euler'; known are paper, fast, dpmpp, dpmpp_karras, few, ddim"):
        build_scheduler("euler")
    for steps in (0, -3, 1001):
        with pytest.raises(ValueError, match=f"1 to 1000 steps, got {steps}"):
            build_scheduler("fast", steps)
    for sampler in ("paper", "ddim"):
        with pytest.raises(ValueError, match="at most 999 steps, got 1000"):
            build_scheduler(sampler, 1000)


SIGNAL = alphas_cumprod().double().numpy()


def curved(z: Tensor, t: Tensor) -> Tensor:
    """A stand-in for a network: bounded, nonlinear in z, changing with t."""
    return torch.tanh(z + 0.5) * (0.5 + t.view(-1, 1, 1, 1) / 1000)


def curved_numpy(z: np.ndarray, t: int) -> np.ndarray:
    return np.tanh(z + 0.5) * (0.5 + t / 1000)


def move(z: np.ndarray, eps: np.ndarray, t: int, to: int) -> np.ndarray:
    """Eq. 12 of DDIM (Song et al. 2021) without noise; below timestep 0 the level of timestep 0."""
    now, then = SIGNAL[t], SIGNAL[max(to, 0)]
    return np.sqrt(then) * (z - np.sqrt(1 - now) * eps) / np.sqrt(now) + np.sqrt(1 - then) * eps


def ddim(z: np.ndarray, steps: int) -> np.ndarray:
    stride = 1000 // steps
    for t in range((steps - 1) * stride + 1, 0, -stride):
        z = move(z, curved_numpy(z, t), t, t - stride)
    return z


def plms(z: np.ndarray, steps: int) -> np.ndarray:
    """Pseudo linear multi-step (Liu et al. 2022) as Stable Diffusion runs it: a pseudo improved Euler step first."""
    stride, old = 1000 // steps, list[np.ndarray]()
    for t in range((steps - 1) * stride + 1, 0, -stride):
        eps = curved_numpy(z, t)
        if not old:
            mean = (eps + curved_numpy(move(z, eps, t, t - stride), t - stride)) / 2
        elif len(old) == 1:
            mean = (3 * eps - old[-1]) / 2
        elif len(old) == 2:
            mean = (23 * eps - 16 * old[-1] + 5 * old[-2]) / 12
        else:
            mean = (55 * eps - 59 * old[-1] + 37 * old[-2] - 9 * old[-3]) / 24
        z = move(z, mean, t, t - stride)
        old.append(eps)
    return z


@pytest.mark.parametrize(("sampler", "reference"), [("paper", plms), ("ddim", ddim)])
@pytest.mark.parametrize("steps", [50, 7])
def test_samplers_equal_their_equations(sampler: str, reference: Callable[[np.ndarray, int], np.ndarray], steps: int) -> None:
    noise = start_noise([0, 1], (4, 3, 2))
    ours = sample(curved, noise, sampler=sampler, steps=steps)
    expected = torch.from_numpy(reference(noise.double().numpy(), steps))
    torch.testing.assert_close(ours.double(), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_evaluation_per_timestep_and_no_state_left_behind(sampler: str) -> None:
    seen: list[Tensor] = []

    def watched(z: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return curved(z, t)

    noise = start_noise([0, 1, 2], (4, 2, 2))
    first = sample(watched, noise, sampler=sampler)
    assert [t.tolist() for t in seen] == [[t] * 3 for t in build_scheduler(sampler).timesteps.tolist()]
    assert torch.equal(first, sample(curved, noise, sampler=sampler))
    assert torch.equal(noise, start_noise([0, 1, 2], (4, 2, 2)))


def gaussian(mean: float, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact noise predictor where z_0 ~ N(mean, std^2)."""

    def predict(z: Tensor, t: Tensor) -> Tensor:
        level = alphas_cumprod()[t].view(-1, 1, 1, 1)
        return (1 - level).sqrt() * (z - level.sqrt() * mean) / (level * std**2 + 1 - level)

    return predict


def way(sampler: str, steps: int | None, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """A sampler's outcome, and the exact one: (z_t - E z_t) / std(z_t) is constant along a Gaussian target's way."""
    noise = start_noise(range(8), (4, 8, 8))
    start = SIGNAL[build_scheduler(sampler, steps).timesteps[0]]
    end = SIGNAL[0] if sampler in ("paper", "ddim") else 1.0
    deviation = (noise - start**0.5 * mean) / (start * std**2 + 1 - start) ** 0.5
    exact = end**0.5 * mean + (end * std**2 + 1 - end) ** 0.5 * deviation
    return sample(gaussian(mean, std), noise, sampler=sampler, steps=steps), exact.float()


@pytest.mark.parametrize(
    ("sampler", "tolerance"), [("paper", 0.002), ("fast", 0.03), ("dpmpp", 0.03), ("dpmpp_karras", 0.01), ("ddim", 0.03)]
)
def test_a_perfect_predictor_of_a_gaussian_gives_that_gaussian(sampler: str, tolerance: float) -> None:
    out, exact = way(sampler, None, 1.5, 0.5)
    assert float(out.mean()) == pytest.approx(float(exact.mean()), abs=0.01)
    assert float(out.mean()) == pytest.approx(1.5, abs=0.1)
    torch.testing.assert_close(*way(sampler, 200, 1.5, 0.5), atol=tolerance, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [None, 3])
def test_a_single_target_is_met_from_any_noise(sampler: str, steps: int | None) -> None:
    torch.testing.assert_close(*way(sampler, steps, -0.7, 0.0), atol=1e-5, rtol=0)


def test_latents_are_float32_whatever_the_network_computes_in() -> None:
    seen: list[torch.dtype] = []

    def half(z: Tensor, t: Tensor) -> Tensor:
        seen.append(z.dtype)
        return curved(z, t).bfloat16()

    assert sample(half, start_noise([0], (4, 2, 2)).bfloat16(), sampler="fast").dtype == torch.float32
    assert set(seen) == {torch.float32}


def test_a_bar_is_shown_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    noise = start_noise([0], (4, 2, 2))
    sample(curved, noise, sampler="fast", steps=2)
    assert capsys.readouterr().err == ""
    sample(curved, noise, sampler="fast", steps=2, progress=True)
    assert "painting" in capsys.readouterr().err


def test_start_noise_belongs_to_its_seed() -> None:
    noise = start_noise([5, 3, 5], (4, 6, 8))
    assert noise.shape == (3, 4, 6, 8)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    torch.rand(10)
    assert torch.equal(noise[1:2], start_noise([3], (4, 6, 8)))
    many = start_noise(range(200), (4, 8, 8))
    assert float(many.mean()) == pytest.approx(0, abs=0.02)
    assert float(many.std()) == pytest.approx(1, abs=0.02)


class Counted:
    """eps = context's mean plus z, with the rows of every call."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        assert len(z) == len(t) == len(context)
        self.rows.append(len(z))
        return z * t.view(-1, 1, 1, 1) / 1000 + context.mean((1, 2)).view(-1, 1, 1, 1)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 7.5])
def test_guidance_mixes_the_two_predictions_and_at_one_makes_no_second(scale: float) -> None:
    predict, z, t = Counted(), start_noise([0, 1], (4, 2, 2)), torch.tensor([10, 900])
    context, null = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3, 5)
    eps = guided(predict, {"context": context}, [(scale, {"context": null})])(z, t)
    assert predict.rows == [2 if scale == 1.0 else 4]
    with_context, without = Counted()(z, t, context).numpy(), Counted()(z, t, null).numpy()
    expected = without + scale * (with_context - without)
    torch.testing.assert_close(eps, torch.from_numpy(expected), atol=1e-5, rtol=0)
    if scale == 0.0:
        torch.testing.assert_close(eps, torch.from_numpy(without), atol=0, rtol=0)


@pytest.mark.parametrize(("first", "second", "calls"), [(2.0, 3.0, 6), (1.0, 3.0, 4), (2.0, 1.0, 4), (1.0, 1.0, 2)])
def test_each_condition_is_guided_against_its_own_absence(first: float, second: float, calls: int) -> None:
    rows: list[int] = []

    def predict(z: Tensor, t: Tensor, *, a: Tensor, b: Tensor) -> Tensor:
        rows.append(len(z))
        return z * t.view(-1, 1, 1, 1) / 1000 + (a + a * b).view(-1, 1, 1, 1)

    z, t = start_noise([0, 1], (4, 2, 2)), torch.tensor([10, 900])
    a, b, none = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0]), torch.zeros(2)
    eps = guided(predict, {"a": a, "b": b}, [(first, {"a": none}), (second, {"b": none})])(z, t)
    assert rows == [calls]
    full, no_a, no_b = predict(z, t, a=a, b=b), predict(z, t, a=none, b=b), predict(z, t, a=a, b=none)
    expected = full + (first - 1) * (full - no_a) + (second - 1) * (full - no_b)
    torch.testing.assert_close(eps, expected, atol=1e-5, rtol=0)


def test_the_released_start_keeps_a_trace_of_the_truth() -> None:
    noise, truth = start_noise([0, 1], (4, 2, 2)), torch.full((2, 4, 2, 2), 3.0)
    start = released_start(noise, truth, alphas_cumprod())
    torch.testing.assert_close(start, 0.068265 * truth + (1 - 0.0046601) ** 0.5 * noise, atol=1e-5, rtol=0)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(config=UNET).eval()
    context, null = torch.randn(4, 5, 24), torch.randn(1, 1, 24).expand(4, 5, -1)
    seeds = [7, 8, 9, 10]

    def paint(rows: list[int]) -> Tensor:
        noise = start_noise([seeds[i] for i in rows], (4, 4, 6))
        predict = guided(denoiser, {"context": context[rows]}, [(5.0, {"context": null[rows]})])
        return sample(predict, noise, sampler="fast", steps=6)

    with torch.no_grad():
        together = paint([0, 1, 2, 3])
        alone = torch.cat([paint([i]) for i in range(4)])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)
