"""Pictures from texts and images: seeds, numbers of each, what the diffusion head is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unifashion_pl import inference
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.module import UniFashionModule


def test_seeds_are_per_image(model: UniFashionModule, files: list[Path]) -> None:
    one, two = model.generate(["a", "b"], seed=7)
    assert one == two == model.generate("a", seed=7)[0]
    variations = model.generate("a", seed=[1, 2, 3])
    assert len(variations) == 3
    assert variations[0] != variations[1]
    assert model.generate("redder", image=files[0], seed=7)[0].getpixel((0, 0))[0] == 255
    with pytest.raises(ValueError, match="2 of prompt, 3 of image, 1 of seed: expected equally many"):
        model.generate(["a", "b"], image=files[:3])


@pytest.mark.parametrize(
    "seed",
    [
        np.int64(7),
        np.uint8(7),
        torch.tensor(7),
        torch.tensor([7]),
        np.array(7),
        np.array([7]),
        range(7, 8),
        [np.int32(7)],
        (7,),
    ],
)
def test_a_seed_of_any_kind_is_its_number(model: UniFashionModule, seed: object) -> None:
    assert model.generate("a", seed=seed) == model.generate("a", seed=7)  # type: ignore[arg-type]
    assert model.generate("a", seed=np.arange(3)) == model.generate("a", seed=[0, 1, 2])


@pytest.mark.parametrize("seed", [7.0, "7", True, None, b"7", -1, 2**64, [], [None], [1, 1.5], torch.tensor(7.0)])
def test_a_seed_that_is_no_whole_number_is_refused(model: UniFashionModule, seed: object) -> None:
    with pytest.raises(ValueError, match="seed is .*, expected|list of seeds is empty"):
        model.generate("a", seed=seed)  # type: ignore[arg-type]


def asked(model: UniFashionModule, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor | None, list[str], dict[str, Any]]]:
    """What the diffusion head will have been given."""
    calls: list[tuple[Tensor | None, list[str], dict[str, Any]]] = []
    paint = model.diffusion_head.generate  # type: ignore[union-attr]

    def spy(queries: Tensor | None, prompts: list[str], **settings: Any) -> Tensor:
        calls.append((queries, prompts, settings))
        return paint(queries, prompts, **settings)

    monkeypatch.setattr(model.diffusion_head, "generate", spy)
    return calls


def test_an_image_guides_by_its_queries_beside_the_text(
    model: UniFashionModule, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eq. 12: of each image alone with its own text, so that a longer text beside it changes nothing."""
    calls = asked(model, monkeypatch)
    texts = ["red", "a much longer text about a dress"]
    assert len(inference.generate(model, texts, image=files[:2], seed=[5, 6], steps=3)) == 2
    backbone = model.backbone
    with torch.no_grad():
        expected = [
            backbone.fused_pass(
                backbone.image_features(EncoderTransform(32)(Image.open(path))[None]), backbone.tokenize([text])
            )[0]
            for path, text in zip(files, texts)
        ]
    ((queries, prompts, settings),) = calls
    assert queries is not None
    torch.testing.assert_close(queries, torch.cat(expected), atol=1e-5, rtol=0)
    assert prompts == texts
    assert settings == {"seeds": [5, 6], "steps": 3}


def test_a_text_alone_has_no_queries_and_batches_are_as_large_as_asked(
    model: UniFashionModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = asked(model, monkeypatch)
    assert len(inference.generate(model, ["red", "blue", "green"], seed=[1, 2, 3], batch_size=2)) == 3
    assert [(queries, prompts, settings["seeds"]) for queries, prompts, settings in calls] == [
        (None, ["red", "blue"], [1, 2]),
        (None, ["green"], [3]),
    ]
    calls.clear()
    inference.generate(model, "red", seed=range(5))
    assert [settings["seeds"] for _, _, settings in calls] == [[0, 1, 2, 3], [4]]


@pytest.mark.parametrize("scale", [0, -1.0, True, "2", float("nan")])
def test_a_guidance_that_would_paint_the_absence_is_refused(model: UniFashionModule, scale: object) -> None:
    with pytest.raises(ValueError, match="guidance is .*, expected a number above 0; 1 = none"):
        model.generate("red", guidance=scale)
