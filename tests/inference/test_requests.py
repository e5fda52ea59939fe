"""What all requests share: texts that can be read, modes, batches, heads, pictures as the tower wants them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import images, painter, tryon_batch

from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.inference.requests import (
    check_scales,
    composed_queries,
    each_once,
    edit_queries,
    head_of,
    in_batches,
    pixels_for,
    readers_of,
)
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.editing import edit_batch


def test_texts_that_cannot_be_read(model: UniFashionModule, files: list[Path]) -> None:
    """Vectors of many texts: named; a request: refused."""
    texts = ["красное платье", "red dress", "", "???"]
    with pytest.warns(
        UserWarning, match="nothing of 'красное платье', '', '[?]{3}' can be read.*; 3 of 4 texts get the vector of an"
    ):
        vectors = model.encode_text(texts)
    assert torch.isfinite(vectors).all()
    for text in ("", "  ", "!!!", "赤い"):
        for ask in (
            lambda: model.compose(files[0], text),  # noqa: B023
            lambda: model.compose(files[0], ["red", text]),  # noqa: B023
            lambda: model.generate(text, image=files[0]),  # noqa: B023
        ):
            with warnings.catch_warnings(), pytest.raises(ValueError, match=f"nothing of {re.escape(repr(text))} can be read"):
                warnings.simplefilter("ignore")
                ask()
    for wrong in (None, 3, b"red", [b"red"], [None], [["red"]], np.array([1, 2])):
        with pytest.raises(TypeError, match="expected (a text or a list of )?texts"):
            model.encode_text(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds half a character"):
        model.encode_text("red \udcff")
    assert torch.equal(model.encode_text(np.array(["red", "blue"])), model.encode_text(["red", "blue"]))  # type: ignore[arg-type]


def test_modes_come_back(model: UniFashionModule, files: list[Path]) -> None:
    model.train()
    model.backbone.ln_vision.eval()
    before = [m.training for m in model.modules()]
    model.encode_image(files[0])
    with pytest.raises(FileNotFoundError):
        model.encode_image("nothing.jpg")
    assert [m.training for m in model.modules()] == before

    def work(part: list[int]) -> bool:
        return torch.is_grad_enabled() or any(m.training for m in model.modules())

    assert in_batches(model, [1], 1, work, "modes") == [False]
    assert [m.training for m in model.modules()] == before
    assert torch.is_grad_enabled()


def test_progress_bar_only_for_long_work(capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Module()
    assert in_batches(model, list(range(10)), 4, lambda part: sum(part), "few") == [6, 22, 17]
    assert capsys.readouterr().err == ""
    in_batches(model, list(range(10)), 1, lambda part: part, "many")
    assert "many" in capsys.readouterr().err
    with pytest.raises(ValueError, match="batch_size is 0"):
        in_batches(model, [1], 0, lambda part: part, "none")


def test_a_head_is_found_or_what_the_model_has_is_said(model: UniFashionModule) -> None:
    assert head_of(model, "retrieval") is model.retrieval_head
    model.retrieval_head = model.caption_head = model.diffusion_head = None
    for name, made in (("retrieval", "embeddings"), ("caption", "captions"), ("diffusion", "images")):
        with pytest.raises(RuntimeError, match=rf"no {name} head, so it cannot make {made} \(it has: none\)"):
            head_of(model, name)


def test_texts_of_pictures_are_read_by_the_text_encoder_and_beside_an_image_by_the_backbone(model: UniFashionModule) -> None:
    assert readers_of(model, with_backbone=False) == []  # its diffusion head reads no text
    assert readers_of(model, with_backbone=True) == [model.backbone]
    real = painter(4)
    assert real.diffusion_head is not None
    assert readers_of(real, with_backbone=False) == [real.diffusion_head.text_encoder]
    assert readers_of(real, with_backbone=True) == [real.backbone, real.diffusion_head.text_encoder]


def test_scales_of_guidance_are_above_0_where_they_are_given() -> None:
    check_scales({"guidance": 1, "garment_guidance": np.float32(0.5), "steps": -1})
    check_scales({"guidance": None})
    for name in ("guidance", "garment_guidance"):
        for wrong in (0, -2, "1", False, float("inf")):
            with pytest.raises(ValueError, match=f"{name} is .*expected a number above 0"):
                check_scales({name: wrong})


def test_a_row_that_was_there_before_is_not_encoded_again() -> None:
    items, asked = ["a", "b", "a", "a", "c", "b"], list[int]()

    def encode(i: int) -> torch.Tensor:
        asked.append(i)
        return torch.full((1, 2), float(ord(items[i])))

    made = each_once(len(items), lambda i, j: items[i] == items[j], encode)
    assert asked == [0, 1, 4]
    assert "".join(chr(int(row[0])) for row in made) == "abaacb"


@torch.no_grad()
def test_variations_are_encoded_once_and_others_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = painter(13)
    rows = edit_batch(tryon_batch(3), ["tryon", "design", "text"])[[0, 0, 1, 2, 2]]
    alone = torch.cat([model.backbone.encode(rows[i]).queries for i in range(5)])
    seen: list[int] = []
    tower = model.backbone.image_features
    monkeypatch.setattr(model.backbone, "image_features", lambda x: (seen.append(len(x)), tower(x))[1])
    assert torch.equal(edit_queries(model, rows), alone)
    assert seen == [1] * 3
    pictures, texts = images(2, 32)[[0, 0, 1, 1]], ["red", "red", "red", "blue"]
    composed = composed_queries(model, pictures, texts)
    assert seen == [1] * 6
    assert torch.equal(composed[0], composed[1])
    assert not torch.equal(composed[2], composed[3])


def test_pictures_of_all_sizes_become_one_batch_of_the_tower_s(model: UniFashionModule) -> None:
    wide, tall = Image.new("RGB", (80, 20), (250, 0, 0)), Image.new("RGB", (15, 60), (0, 0, 250))
    pixels = pixels_for(model, [wide, tall, images(1, 32)[0]])
    assert pixels.shape == (3, 3, 32, 32)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels[2], images(1, 32)[0])
    assert torch.equal(pixels[0], EncoderTransform(32)(wide))
    assert pixels[:2, :, 16, 16].tolist() == [[250, 0, 0], [0, 0, 250]]
