"""What the pipeline of an exported head is given, and what it refuses in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import images, painter

from unifashion_pl.data.transforms import GREY
from unifashion_pl.export import pipeline
from unifashion_pl.export.diffusers_folder import conditioning_of, garment_of
from unifashion_pl.export.pipeline import UniFashionPipeline
from unifashion_pl.generation.samplers import build_scheduler


def of(channels: int = 13, texts: bool = True) -> tuple[Any, Any]:
    """A head and its pipeline."""
    head: Any = painter(channels).diffusion_head
    branch = head.denoiser.garment
    made: Any = UniFashionPipeline(
        head.denoiser.unet,
        head.vae.model,
        build_scheduler("paper"),
        conditioning_of(head),
        head.text_encoder.model if texts else None,
        head.text_encoder.tokenizer if texts else None,
        None if branch is None else garment_of(branch, head.denoiser.unet),
    )
    made.set_progress_bar_config(disable=True)
    return head, made


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_kinds_of_output() -> None:
    head, pipe = of(4)
    few: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}
    made = {kind: pipe("red", generator=seeded(7), output_type=kind, **few).images for kind in ("latent", "pt", "np", "pil")}
    wanted = head.generate(None, ["red"], seeds=[7], steps=2, guidance=3.0)
    assert made["pt"].shape == wanted.shape
    assert (made["pt"].int() - wanted.int()).abs().max() <= 1
    assert np.array_equal(np.asarray(made["pil"][0]), made["pt"][0].permute(1, 2, 0).numpy())
    assert made["np"] == pytest.approx(made["pt"].permute(0, 2, 3, 1).numpy() / 255)
    noise = torch.randn(4, 8, 6, generator=seeded(7)[0])[None]
    again = pipe("red", latents=noise, output_type="latent", return_dict=False, **few)[0]
    assert torch.allclose(again, made["latent"], atol=1e-6)
    context = head.build_context(None, ["red"])
    embedded = pipe(prompt_embeds=context, generator=seeded(7), output_type="latent", **few).images
    assert torch.allclose(embedded, made["latent"], atol=1e-5)


def test_pictures_of_pil_and_tensors_are_one() -> None:
    _, pipe = of()
    person, cloth = images(2, 32)[..., :24]
    region = torch.zeros(1, 1, 32, 24, dtype=torch.bool)
    region[..., 8:20, 6:18] = True
    drawn = Image.fromarray((region[0, 0].numpy() * 255).astype(np.uint8))
    asked = {"num_inference_steps": 1, "output_type": "latent"}
    one = pipe(person=person[None], mask=region, garment=cloth[None], generator=seeded(1), **asked).images
    pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in (person, cloth)]
    two = pipe(person=pictures[0], mask=drawn, garment=pictures[1:], generator=seeded(1), **asked).images
    assert torch.equal(one, two)
    other = pipe(person=person[None], mask=region, generator=seeded(1), **asked).images
    assert not torch.allclose(one, other, atol=1e-3)
    assert pipeline.GREY == GREY


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": True}, "mask without a person"),
        ({"person": True}, "person without a mask"),
        ({"person": True, "mask": True, "garment": True, "sketch": True}, "name the photo .* or the sketch"),
        (
            {"person": torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "mask": True},
            r"person is torch.uint8 \(1, 3, 8, 8\), expected uint8",
        ),
        ({"person": True, "mask": torch.zeros(1, 1, 32, 24)}, r"mask is torch.float32"),
        ({"person": torch.zeros(3, 3, 32, 24, dtype=torch.uint8), "mask": True}, "3 pictures of person for 1 rows"),
        ({"queries": torch.zeros(1, 4, 7)}, r"queries have shape \(1, 4, 7\)"),
        ({"prompt": ["a", "b"], "queries": torch.zeros(3, 4, 32)}, "2 prompts and 3 rows"),
        ({"queries": torch.zeros(1, 4, 32), "prompt_embeds": torch.zeros(1, 4, 32)}, "the whole context"),
        ({"latents": torch.zeros(1, 4, 2, 2)}, r"latents have shape \(1, 4, 2, 2\), expected \(1, 4, 8, 6\)"),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    _, pipe = of()
    blank = torch.zeros(1, 3, 32, 24, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        pipe(**{name: blank if value is True else value for name, value in given.items()})


def test_what_the_model_cannot_read_is_refused() -> None:
    _, pipe = of(4)
    blank = torch.zeros(1, 3, 32, 24, dtype=torch.uint8)
    with pytest.raises(ValueError, match="reads no person, mask or pose"):
        pipe(person=blank, mask=blank)
    _, pipe = of(4, texts=False)
    with pytest.raises(ValueError, match="reads no text"):
        pipe("red")
