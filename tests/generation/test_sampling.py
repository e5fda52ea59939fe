"""From noise to latents: samplers written out in numpy, targets whose noise is known exactly, guidance, seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from small import UNET
from torch import Tensor

from unifashion_pl.generation import SAMPLERS, Denoiser
from unifashion_pl.generation.sampling import guided, released_start, sample, start_noise
from unifashion_pl.generation.schedules import alphas_cumprod, build_scheduler

ALPHA_BAR = alphas_cumprod().double().numpy()


def curved(z: Tensor, t: Tensor) -> Tensor:
    """A stand-in for a network: bounded, nonlinear in z, changing with t."""
    return torch.tanh(z + 0.5) * (0.5 + t.view(-1, 1, 1, 1) / 1000)


def curved_numpy(z: np.ndarray, t: int) -> np.ndarray:
    return np.tanh(z + 0.5) * (0.5 + t / 1000)


def move(z: np.ndarray, eps: np.ndarray, t: int, to: int) -> np.ndarray:
    """Eq. 12 of DDIM (Song et al. 2021) without noise; below timestep 0 the level of timestep 0."""
    now, then = ALPHA_BAR[t], ALPHA_BAR[max(to, 0)]
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
    start = ALPHA_BAR[build_scheduler(sampler, steps).timesteps[0]]
    end = ALPHA_BAR[0] if sampler in ("paper", "ddim") else 1.0
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
