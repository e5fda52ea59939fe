"""Inference on what people have at hand: kinds of input, batch sizes, modes, errors."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import images, small_backbone
from torch import Tensor, nn

from unifashion_pl.inference.images import image_list, open_image
from unifashion_pl.inference.requests import evaluating, in_batches
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule


class Captioner(nn.Module):
    def generate(self, queries: Tensor, styles: list[str], **settings: object) -> list[str]:
        return [f"{style} {float(q[0, 0]):.6f} {sorted(settings)}" for q, style in zip(queries, styles)]


class Painter(nn.Module):
    text_encoder = None

    def generate(self, queries: Tensor | None, prompts: list[str], *, seeds: list[int], **_: object) -> Tensor:
        out = torch.stack([images(1, 8, seed)[0] for seed in seeds])
        if queries is not None:
            out[:, 0, 0, 0] = 255
        return out


@pytest.fixture
def model() -> UniFashionModule:
    torch.manual_seed(0)
    made = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8))
    made.caption_head, made.diffusion_head = Captioner(), Painter()  # type: ignore[assignment]
    return made.eval()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.fromarray(images(1, 2, seed=i)[0].permute(1, 2, 0).numpy()).resize((40, 40)).save(path)
    return paths


def test_all_kinds_of_input_give_the_same_vectors(model: UniFashionModule, files: list[Path]) -> None:
    picture = Image.open(files[0])
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = model.encode_image(files[0])
    assert expected.shape == (1, 4, 8)
    for other in (str(files[0]), picture, array, tensor, tensor[None], tensor.double() / 255, [files[0]], (picture,)):
        assert torch.equal(model.encode_image(other), expected)


def test_unit_vectors_that_can_be_trained_on(model: UniFashionModule, files: list[Path]) -> None:
    for vectors in (
        model.encode_image(files),
        model.encode_text(["red dress", "skirt"]),
        model.compose(files[:2], ["red", "blue"]),
    ):
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]), atol=1e-5)
        assert not vectors.is_inference()
    probe = nn.Linear(8, 1)
    probe(model.encode_text("red dress")).sum().backward()


def test_batch_size_changes_nothing(model: UniFashionModule, files: list[Path]) -> None:
    from unifashion_pl import inference

    texts = ["red", "a much longer text about a dress with sleeves", "blue", "dress", "x"]
    for call in (
        lambda n: inference.encode_image(model, files, batch_size=n),
        lambda n: inference.encode_text(model, texts, batch_size=n),
        lambda n: inference.compose(model, files, texts, batch_size=n),
    ):
        assert torch.allclose(call(5), call(2), atol=1e-6)
    assert inference.generate(model, texts, seed=3, batch_size=1) == inference.generate(model, texts, seed=3, batch_size=4)


def test_query_sets_differ_and_unknown_ones_are_refused(model: UniFashionModule, files: list[Path]) -> None:
    with torch.no_grad():
        model.backbone.target_query_tokens.add_(torch.randn(1, 4, 32))
    assert not torch.allclose(model.encode_image(files[0]), model.encode_image(files[0], "target"))
    with pytest.raises(ValueError, match="unknown query set both: expected reference or target"):
        model.encode_image(files[0], "both")


def test_single_partner_goes_with_all(model: UniFashionModule, files: list[Path]) -> None:
    assert torch.allclose(model.compose(files[0], ["red", "blue"]), model.compose([files[0]] * 2, ["red", "blue"]))
    assert model.compose(files, "red").shape == (5, 8)
    with pytest.raises(ValueError, match="2 images and 3 texts"):
        model.compose(files[:2], ["a", "b", "c"])


def test_captions_pass_style_and_settings(model: UniFashionModule, files: list[Path]) -> None:
    texts = model.caption(files, style="fashioniq", num_beams=3)
    assert len(texts) == 5
    assert all(t.startswith("fashioniq ") and t.endswith("['num_beams']") for t in texts)
    assert len(set(texts)) == 5


def test_seeds_are_per_image(model: UniFashionModule, files: list[Path]) -> None:
    one, two = model.generate(["a", "b"], seed=7)
    assert one == two == model.generate("a", seed=7)[0]
    variations = model.generate("a", seed=[1, 2, 3])
    assert len(variations) == 3
    assert variations[0] != variations[1]
    assert model.generate("redder", image=files[0], seed=7)[0].getpixel((0, 0))[0] == 255
    with pytest.raises(ValueError, match="2 prompts, 3 images, 1 seeds"):
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


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2", None])
def test_a_batch_size_is_a_whole_number_from_1(model: UniFashionModule, size: object) -> None:
    from unifashion_pl import inference

    with pytest.raises(ValueError, match="batch_size is .*, expected (a whole number|at least 1)"):
        inference.encode_text(model, "red", batch_size=size)  # type: ignore[arg-type]
    assert len(inference.encode_text(model, "red", batch_size=np.int64(2))) == 1  # type: ignore[arg-type]


def test_modes_come_back(model: UniFashionModule, files: list[Path]) -> None:
    model.train()
    model.backbone.ln_vision.eval()
    before = [m.training for m in model.modules()]
    model.encode_image(files[0])
    with pytest.raises(FileNotFoundError):
        model.encode_image("nothing.jpg")
    assert [m.training for m in model.modules()] == before
    with evaluating(model):
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
    assert [m.training for m in model.modules()] == before
    assert torch.is_grad_enabled()


def test_errors_say_what_was_found(model: UniFashionModule, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    cut = tmp_path / "cut.jpg"
    Image.open(files[0]).resize((400, 400)).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    cases: list[tuple[object, type[Exception], str]] = [
        ("nowhere.jpg", FileNotFoundError, "'nowhere.jpg' not found"),
        (tmp_path, FileNotFoundError, "it is a folder"),
        (tmp_path / "page.jpg", ValueError, "text/html, not an image"),
        (cut, ValueError, "truncated"),
        ([], ValueError, "empty"),
        (3, TypeError, "got int"),
        ([3], TypeError, "got int"),
        (np.zeros((4, 4), np.uint8), ValueError, r"shape \(4, 4\)"),
        (torch.randn(3, 4, 4) * 3, ValueError, "floats in 0..1"),
    ]
    for item, error, message in cases:
        with pytest.raises(error, match=message):
            model.encode_image(item)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="list of texts is empty"):
        model.encode_text([])
    with pytest.raises(TypeError, match="expected texts, got int"):
        model.encode_text(["a", 3])  # type: ignore[list-item]


def test_a_missing_head_is_named(model: UniFashionModule, files: list[Path]) -> None:
    model.caption_head = None
    with pytest.raises(RuntimeError, match=r"no caption head, so it cannot make captions \(it has: retrieval, diffusion\)"):
        model.caption(files)


def test_pictures_are_turned_upright_and_laid_over_white(tmp_path: Path) -> None:
    tall = Image.new("RGB", (10, 20), (200, 0, 0))
    exif = tall.getexif()
    exif[0x0112] = 6
    tall.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (20, 10)
    assert open_image(Image.new("RGBA", (2, 2), (9, 9, 9, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_image_lists() -> None:
    assert len(image_list(images(3))) == 3
    assert len(image_list(images(1)[0])) == 1
    assert image_list("a.jpg") == ["a.jpg"]


def test_progress_bar_only_for_long_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_batches(list(range(10)), 4, lambda part: sum(part), "few") == [6, 22, 17]
    assert capsys.readouterr().err == ""
    in_batches(list(range(10)), 1, lambda part: part, "many")
    assert "many" in capsys.readouterr().err
    with pytest.raises(ValueError, match="batch_size is 0"):
        in_batches([1], 0, lambda part: part, "none")
