"""Vectors of images, texts and both: whatever a picture comes as, in batches of any size, against the model's parts put together by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from unifashion_pl import inference
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.module import UniFashionModule


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
    with pytest.raises(ValueError, match="unknown query set 'both'; known are reference, target"):
        model.encode_image(files[0], "both")


def test_single_partner_goes_with_all(model: UniFashionModule, files: list[Path]) -> None:
    assert torch.allclose(model.compose(files[0], ["red", "blue"]), model.compose([files[0]] * 2, ["red", "blue"]))
    assert model.compose(files, "red").shape == (5, 8)
    with pytest.raises(ValueError, match="2 of images, 3 of texts"):
        model.compose(files[:2], ["a", "b", "c"])


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2", None])
def test_a_batch_size_is_a_whole_number_from_1(model: UniFashionModule, size: object) -> None:
    with pytest.raises(ValueError, match="batch_size is .*, expected (a whole number|at least 1)"):
        inference.encode_text(model, "red", batch_size=size)  # type: ignore[arg-type]
    assert len(inference.encode_text(model, "red", batch_size=np.int64(2))) == 1  # type: ignore[arg-type]


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


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    return F.normalize(x @ layer.weight.T + layer.bias, dim=-1)  # type: ignore[union-attr, operator]


@torch.no_grad()
def test_vectors_are_projected_passes_of_the_qformer(model: UniFashionModule, files: list[Path]) -> None:
    """Queries of the image alone, CLS of the text alone, and CLS of the text that has seen the image."""
    backbone, head = model.backbone, model.retrieval_head
    assert head is not None
    texts = ["red dress", "blue skirt", "a coat"]
    features = backbone.image_features(torch.stack([EncoderTransform(32)(Image.open(path)) for path in files[:3]]))
    tokens = backbone.tokenize(texts)
    image = linear(head.vision_proj, backbone.image_pass(features))
    torch.testing.assert_close(inference.encode_image(model, files[:3]), image, atol=1e-5, rtol=0)
    text = linear(head.text_proj, backbone.text_pass(tokens))
    torch.testing.assert_close(inference.encode_text(model, texts), text, atol=1e-5, rtol=0)
    both = linear(head.text_proj, backbone.fused_pass(features, tokens)[1])
    torch.testing.assert_close(inference.compose(model, files[:3], texts), both, atol=1e-5, rtol=0)
    assert (both - text).abs().max() > 1e-3


def test_several_query_sets_cost_one_pass_of_the_tower(model: UniFashionModule, files: list[Path]) -> None:
    with torch.no_grad():
        model.backbone.target_query_tokens.add_(torch.randn(1, 4, 32))
    sizes: list[int] = []
    handle = model.backbone.vision.register_forward_hook(lambda _m, given, _o: sizes.append(len(given[0])))
    both = inference.encode_image_sets(model, files, ("target", "reference"), batch_size=2)
    handle.remove()
    assert sizes == [2, 2, 1]
    assert list(both) == ["target", "reference"]
    for name, vectors in both.items():
        assert torch.equal(vectors, inference.encode_image(model, files, name, batch_size=2))


def test_a_strict_request_refuses_what_a_lenient_one_names(model: UniFashionModule) -> None:
    with pytest.raises(ValueError, match="nothing of '!!!' can be read"):
        inference.encode_text(model, ["red", "!!!"], strict=True)
    with pytest.warns(UserWarning, match="1 of 2 texts get the vector of an empty one"):
        vectors = inference.encode_text(model, ["red", "!!!"])
    with pytest.warns(UserWarning, match="nothing of ''"):
        assert torch.allclose(vectors[1:], inference.encode_text(model, ""), atol=1e-6)
