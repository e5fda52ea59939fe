"""The vision tower against timm's own features, normalised by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from small import images
from torch import Tensor, nn
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from unifashion_pl.backbone import VisionTower

RESNET: dict[str, Any] = {"channels": (8, 8, 16, 16), "stem_width": 8, "output_stride": 16}
VIT: dict[str, Any] = {"img_size": 32, "depth": 2, "embed_dim": 16, "num_heads": 2}
SWIN: dict[str, Any] = {"img_size": 32, "window_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}


def tower(name: str, options: dict[str, Any], **kwargs: Any) -> VisionTower:
    torch.manual_seed(0)
    return VisionTower(name, image_size=32, timm_kwargs=options, **kwargs).eval()


def features(model: VisionTower, pixels: Tensor) -> np.ndarray:
    """timm's features of pixels normalised in numpy by CLIP's published constants."""
    scaled = pixels.numpy().astype(np.float64) / 255
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    with torch.no_grad():
        return model.model.forward_features(torch.from_numpy((scaled - mean) / std).float()).numpy()


def close(ours: Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(ours, torch.from_numpy(expected), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_feature_map_becomes_one_token_per_cell_row_by_row() -> None:
    model = tower("resnet10t", RESNET, positions=False)
    grid = features(model, images(2))
    _, W, h, w = grid.shape
    assert (W, h, w) == (model.width, 2, 2)
    close(model(images(2)), np.stack([grid[:, :, i // w, i % w] for i in range(h * w)], 1))


@torch.no_grad()
def test_feature_maps_with_channels_last_give_the_same_layout() -> None:
    model = tower("swin_tiny_patch4_window7_224", SWIN, positions=False)
    grid = features(model, images(2))
    assert grid.shape == (2, 4, 4, model.width)
    close(model(images(2)), grid.reshape(2, 16, model.width))


@torch.no_grad()
@pytest.mark.parametrize("final_norm", [False, True])
def test_tokens_are_handed_on_and_the_final_norm_only_if_asked(final_norm: bool) -> None:
    model = tower("vit_tiny_patch16_224", VIT, final_norm=final_norm)
    close(model(images(2)), features(model, images(2)))
    torch.manual_seed(0)
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT).eval()
    assert isinstance(whole.norm, nn.LayerNorm)
    before = whole.norm.register_forward_hook(lambda _m, given, out: out if final_norm else given[0])
    whole.load_state_dict(model.model.state_dict(), strict=False)
    close(model(images(2)), whole.forward_features((images(2) - model.mean) / model.std).numpy())
    before.remove()
    assert isinstance(model.model.norm, nn.LayerNorm) is final_norm
    assert model(images(1)).shape == (1, 5, model.width)


@torch.no_grad()
def test_positions_tell_rows_and_columns_of_a_feature_map_apart() -> None:
    plain, placed = (tower("resnet10t", {**RESNET, "output_stride": 8}, positions=p) for p in (False, None))
    added = placed(images(2)) - plain(images(2))
    torch.testing.assert_close(added[0], added[1], atol=1e-5, rtol=0)
    grid = added[0].unflatten(0, (4, 4))
    half = plain.width // 2
    assert (grid[..., :half] - grid[:, :1, :half]).abs().max() < 1e-5
    assert (grid[..., half:] - grid[:1, :, half:]).abs().max() < 1e-5
    distances = torch.cdist(added[0], added[0]) + torch.eye(16)
    assert distances.min() > 0.1
    tokens, forced = tower("vit_tiny_patch16_224", VIT), tower("vit_tiny_patch16_224", VIT, positions=False)
    assert torch.equal(tokens(images(1)), forced(images(1)))


@torch.no_grad()
def test_another_normalisation_can_be_set_and_is_not_part_of_the_weights() -> None:
    model = tower("resnet10t", RESNET, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), positions=False)
    expected = model.model.forward_features(images(1) / 255).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model(images(1)), expected, atol=1e-5, rtol=1e-4)
    assert all(name.startswith("model.") for name in model.state_dict())


@torch.no_grad()
def test_weights_come_from_a_local_file(tmp_path: Path) -> None:
    published = timm.create_model("vit_tiny_patch16_224", num_classes=3, **VIT).eval()
    save_file(published.state_dict(), tmp_path / "vit.safetensors")
    model = tower("vit_tiny_patch16_224", VIT, weights=str(tmp_path / "vit.safetensors"), final_norm=True)
    close(model(images(1)), published.forward_features((images(1) - model.mean) / model.std).numpy())


def test_a_picture_without_its_batch_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 32, 32\), the vision tower expects \(B, 3, 32, 32\)"):
        tower("resnet10t", RESNET)(images(1)[0])
