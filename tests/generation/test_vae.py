"""The autoencoder between uint8 pictures and scaled latents, and the shipped one on pictures of the wardrobe."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from small import VAE, images
from torch import Tensor

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.generation import ImageVAE
from unifashion_pl.wardrobe.products import make_product
from unifashion_pl.wardrobe.render import render_product

CONFIG = {
    **VAE,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}


@pytest.fixture(scope="module")
def vae() -> ImageVAE:
    return ImageVAE("tiny")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Products of a seed on which the shipped VAE was not trained, in the three whole views."""
    views = ("front", "hanger", "worn")
    return [render_product(make_product(99, i), views[i % 3], 64, f"vae/{i}").convert("RGB") for i in range(12)]


def to_tensor(pictures: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)


def test_latents_and_pictures_equal_diffusers_own_processing(pipeline_folder: Path, pictures: list[Image.Image]) -> None:
    vae, processor = ImageVAE(str(pipeline_folder)), VaeImageProcessor()
    theirs = AutoencoderKL.from_pretrained(pipeline_folder, subfolder="vae").eval()
    with torch.no_grad():
        pixels = torch.cat([processor.preprocess(p) for p in pictures])
        expected = theirs.encode(pixels).latent_dist.mode() * theirs.config.scaling_factor
        decoded = processor.postprocess(theirs.decode(expected / theirs.config.scaling_factor).sample, output_type="pil")
    latents = vae.encode(to_tensor(pictures))
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)
    differences = (vae.decode(latents).int() - to_tensor(decoded).int()).abs()
    assert differences.max() <= 1
    assert float(differences.float().mean()) < 0.01


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 48)])
def test_shapes_and_types(vae: ImageVAE, height: int, width: int) -> None:
    latents = vae.encode(images(2, 64)[:, :, :height, :width])
    assert latents.shape == (2, 4, height // 4, width // 4)
    back = vae.decode(latents)
    assert back.shape == (2, 3, height, width)
    assert back.dtype == torch.uint8
    assert vae.decode(latents.double()).dtype == torch.uint8


def test_pictures_outside_the_range_are_clamped_not_wrapped() -> None:
    torch.manual_seed(0)
    model = ImageVAE(config=CONFIG)
    model.model.decoder.conv_out.weight.mul_(20)
    latents = torch.randn(2, 4, 8, 8)
    raw, out = model.model.decode(latents / model.scale).sample, model.decode(latents)
    assert (raw > 1.1).any()
    assert (raw < -1.1).any()
    assert (out[raw > 1] == 255).all()
    assert (out[raw < -1] == 0).all()


def test_pictures_of_no_numbers_are_refused_not_painted(vae: ImageVAE) -> None:
    latents = torch.zeros(2, 4, 4, 4)
    latents[1, 0, 0, 0] = math.nan
    with pytest.raises(ArgumentError, match="painted is NaN or infinite"):
        vae.decode(latents)


def test_the_scale_multiplies_the_latents_and_is_undone() -> None:
    torch.manual_seed(0)
    model = ImageVAE(config=CONFIG)
    assert (model.scale, model.factor) == (0.5, 2)
    pixels = images(2)
    mean = model.model.encode(pixels / 127.5 - 1).latent_dist.mean
    torch.testing.assert_close(model.encode(pixels), 0.5 * mean, atol=1e-6, rtol=0)
    out = ((model.model.decode(mean).sample + 1) * 127.5).round().clamp(0, 255)
    assert (model.decode(0.5 * mean) - out).abs().max() <= 1


def test_the_mode_is_fixed_and_samples_spread_around_it(pictures: list[Image.Image]) -> None:
    torch.manual_seed(0)
    vae = ImageVAE(config=VAE)
    pixels = to_tensor(pictures)
    mode = vae.encode(pixels)
    assert torch.equal(mode, vae.encode(pixels))
    torch.manual_seed(0)
    draws = torch.stack([vae.encode(pixels, sample=True) for _ in range(4)])
    assert not torch.equal(draws[0], draws[1])
    std = vae.scale * vae.model.encode(pixels / 127.5 - 1).latent_dist.std
    deviations = (draws - mode) / std
    assert float(deviations.mean()) == pytest.approx(0, abs=0.02)
    assert float(deviations.std()) == pytest.approx(1, abs=0.02)


def psnr(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(255**2 / float((a.float() - b.float()).square().mean()))


def test_the_shipped_vae_reconstructs_the_wardrobe_and_scales_its_latents(vae: ImageVAE, pictures: list[Image.Image]) -> None:
    """About 25.9 dB; a picture's own mean colour gives 14."""
    pixels = to_tensor(pictures)
    latents = vae.encode(pixels)
    assert psnr(vae.decode(latents), pixels) > 24.5
    assert 0.8 < float(latents.std()) < 1.25


def test_the_shipped_vae_keeps_colours_and_beats_a_picture_of_its_latents_size(
    vae: ImageVAE, pictures: list[Image.Image]
) -> None:
    plain = 255 * torch.eye(3, dtype=torch.uint8)[:, :, None, None].expand(3, 3, 64, 64)
    shown = vae.decode(vae.encode(plain)).float().mean((2, 3))
    assert shown.argmax(1).tolist() == [0, 1, 2]
    assert (shown.amax(1) - shown.amin(1) > 60).all()
    pixels = to_tensor(pictures)
    small = F.interpolate(F.avg_pool2d(pixels.float(), 4), scale_factor=4, mode="bilinear")
    assert psnr(vae.decode(vae.encode(pixels)), pixels) > psnr(small, pixels)


def test_it_stays_frozen_in_eval_mode_and_in_float32(vae: ImageVAE) -> None:
    torch.nn.Sequential(vae).train()
    assert not any(part.training for part in vae.modules())
    assert not any(p.requires_grad for p in vae.parameters())
    assert {p.dtype for p in vae.parameters()} == {torch.float32}
    assert not vae.encode(images(1, 64)).requires_grad
    assert not vae.decode(torch.zeros(1, 4, 2, 2, requires_grad=True)).requires_grad


def test_an_autoencoder_without_posterior_gives_the_same_latents_in_training(
    vae: ImageVAE, pictures: list[Image.Image]
) -> None:
    pixels = to_tensor(pictures)
    assert type(vae.model).__name__ == "AutoencoderTiny"
    assert torch.equal(vae.encode(pixels, sample=True), vae.encode(pixels))


def test_a_pipeline_s_folder_gives_its_vae(pipeline_folder: Path) -> None:
    vae, part = ImageVAE(str(pipeline_folder)), ImageVAE(str(pipeline_folder / "vae"))
    assert torch.equal(vae.encode(images(1, 64)), part.encode(images(1, 64)))
    assert (vae.scale, vae.factor) == (0.5, 4)


def test_mistakes_are_named(vae: ImageVAE) -> None:
    with pytest.raises(ValueError, match=r"torch.float32, expected torch.uint8"):
        vae.encode(images(1, 64).float())
    with pytest.raises(ValueError, match=r"\(30, 30\), expected sides that are multiples of 4"):
        vae.encode(images(1, 30))
    with pytest.raises(ValueError, match="8 latent channels, the denoiser reads 4"):
        ImageVAE(config={**CONFIG, "latent_channels": 8})


@pytest.mark.parametrize("kind", ["with a posterior", "without"])
def test_cached_posteriors_are_those_that_are_computed_and_each_is_computed_once(kind: str) -> None:
    def build(cache: int) -> ImageVAE:
        torch.manual_seed(0)
        return ImageVAE("tiny", cache=cache) if kind == "without" else ImageVAE(config=CONFIG, cache=cache)

    plain, cached, encoded = build(0), build(3), []
    cached.model.encoder.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
    pixels = images(5, 16)
    for order in ([0, 1, 1], [1, 2, 0], [4, 3, 0], [3, 4, 2]):
        torch.manual_seed(1)
        expected = plain.encode(pixels[order], sample=True)
        torch.manual_seed(1)
        torch.testing.assert_close(cached.encode(pixels[order], sample=True), expected, atol=1e-5, rtol=0)
    assert encoded == [2, 1, 2, 2]  # 0 and 1; 2; then there is no room for 3 and 4
    assert cached.encode(pixels, sample=False).shape == plain.encode(pixels).shape
    assert encoded[-1] == 5  # pictures of users are not kept
    assert set(cached.state_dict()) == set(plain.state_dict())
