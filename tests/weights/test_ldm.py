"""Stable Diffusion, Paint-by-Example, VAEs and StableVITON: imported parts compute what the originals compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from small import UNET, images, save_stable_diffusion
from torch import Tensor

from unifashion_pl.generation import Denoiser, ImageVAE
from unifashion_pl.weights.check import published_tensors
from unifashion_pl.weights.importing import import_weights
from unifashion_pl.weights.ldm import build_part


def sd_checkpoint(in_channels: int = 4) -> tuple[dict[str, Tensor], Any, Any, Any]:
    unet, vae, text = peers.unet(in_channels), peers.vae(), peers.text_encoder()
    state = {
        **peers.to_ldm_unet(unet.state_dict()),
        **peers.to_ldm_vae(vae.state_dict()),
        **peers.to_ldm_text(text.state_dict()),
        **peers.ldm_process(),
    }
    return state, unet, vae, text


def noisy(channels: int) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {
        "sample": torch.randn(2, channels, 8, 8),
        "timestep": torch.tensor([3, 900]),
        "encoder_hidden_states": torch.randn(2, 7, peers.UNET["cross_attention_dim"]),
    }


@torch.no_grad()
def test_stable_diffusion_in_ldm_names_computes_exactly_the_same(tmp_path: Path) -> None:
    state, unet, vae, text = sd_checkpoint()
    torch.save({"state_dict": state, "global_step": 470000, "callbacks": {}}, tmp_path / "sd-v1-4.ckpt")
    report = import_weights(tmp_path / "sd-v1-4.ckpt", tmp_path / "out")
    assert report.kind == "sd"
    assert "OpenRAIL" in report.licence
    spent = [name for entry in report.entries for name in entry.sources]
    assert sorted(spent) == sorted(state)
    assert report.counts()["dropped"] == len(peers.ldm_process()) + 1
    assert not (tmp_path / "out" / "model.safetensors").exists()

    given = noisy(4)
    denoiser = Denoiser(source=str(tmp_path / "out"))
    eps = denoiser(given["sample"], given["timestep"], given["encoder_hidden_states"])
    assert torch.equal(eps, unet(**given).sample)
    pictures = images(2, 16)
    loaded = ImageVAE(str(tmp_path / "out"))
    assert loaded.scale == 0.18215
    expected = vae.encode(pictures.float() / 127.5 - 1).latent_dist.mode() * 0.18215
    assert torch.equal(loaded.encode(pictures), expected)
    assert torch.equal(loaded.model.decode(expected).sample, vae.decode(expected).sample)
    from transformers import CLIPTextModel

    ids = torch.tensor([[52, 3, 4, 5, 53, 53]])
    again = CLIPTextModel.from_pretrained(tmp_path / "out" / "text_encoder")
    assert torch.equal(again(input_ids=ids).last_hidden_state, text(input_ids=ids).last_hidden_state)
    assert any("tokenizer" in note for note in report.notes)


@torch.no_grad()
def test_paint_by_example_is_widened_in_its_own_order_and_keeps_its_null_token(tmp_path: Path) -> None:
    state, unet, _, _ = sd_checkpoint(9)
    state = {n: t for n, t in state.items() if not n.startswith("cond_stage_model.")}
    vector = torch.randn(1, 1, 64)
    state |= {"learnable_vector": vector, "proj_out.weight": torch.rand(2, 2), "cond_stage_model.mapper.x": torch.rand(2)}
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    report = import_weights(tmp_path / "model.ckpt", tmp_path / "out")
    assert report.kind == "pbe"
    given = noisy(9)
    denoiser = Denoiser(source=str(tmp_path / "out"))
    assert denoiser.in_channels == 13
    person, keep = given["sample"][:, 4:8], given["sample"][:, 8:]
    eps = denoiser(
        given["sample"][:, :4],
        given["timestep"],
        given["encoder_hidden_states"],
        person=person,
        keep=keep,
        pose=torch.randn(2, 4, 8, 8),
    )
    torch.testing.assert_close(eps, unet(**given).sample, atol=1e-6, rtol=0)
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["diffusion_head.null_context"], vector)


def test_stable_diffusions_inpainting_channels_are_refused(tmp_path: Path) -> None:
    torch.save(sd_checkpoint(9)[0], tmp_path / "sd-v1-5-inpainting.ckpt")
    with pytest.raises(ValueError, match=r"\[noisy, mask, masked latents\] with 1 = repaint"):
        import_weights(tmp_path / "sd-v1-5-inpainting.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_fine_tuned_vae_loses_its_losses_only(tmp_path: Path, prefix: str) -> None:
    vae = peers.vae(seed=7)
    state = peers.to_ldm_vae(vae.state_dict(), prefix) | {
        f"{prefix}loss.discriminator.main.0.weight": torch.rand(3),
        f"{prefix}loss.logvar": torch.rand(()),
    }
    torch.save({"state_dict": state}, tmp_path / "vae.ckpt")
    report = import_weights(tmp_path / "vae.ckpt", tmp_path / "out")
    assert report.kind == "vae"
    assert report.counts()["dropped"] == 2
    pictures = images(1, 16)
    assert torch.equal(
        ImageVAE(str(tmp_path / "out")).encode(pictures), vae.encode(pictures.float() / 127.5 - 1).latent_dist.mode() * 0.18215
    )


def test_a_diffusers_pipeline_with_old_names_comes_out_with_todays(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path / "pipe")
    vae_file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in load_file(vae_file).items():
        for new, was in names.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{was}.")
        old[name] = tensor.clone()
    assert any(".proj_attn." in name for name in old)
    vae_file.unlink()
    torch.save(old, folder / "vae" / "diffusion_pytorch_model.bin")
    text_file = folder / "text_encoder" / "model.safetensors"
    text = {f"text_model.{n.removeprefix('text_model.')}": t.clone() for n, t in load_file(text_file).items()}
    text_file.unlink()
    torch.save(
        {**text, "text_model.embeddings.position_ids": torch.arange(12)[None]}, folder / "text_encoder" / "pytorch_model.bin"
    )
    report = import_weights(folder, tmp_path / "out")
    assert report.kind == "sd"
    from unifashion_pl.generation import PromptEncoder

    again = save_stable_diffusion(tmp_path / "again")
    for cls in (Denoiser, PromptEncoder):
        first, second = (cls(source=str(path)).state_dict() for path in (tmp_path / "out", again))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[n], second[n]) for n in first)
    first, second = (ImageVAE(str(path)).state_dict() for path in (tmp_path / "out", again))
    assert all(torch.equal(first[n], second[n]) for n in second)


@torch.no_grad()
def test_a_pipeline_of_stable_diffusion_2_s_class_computes_the_same(tmp_path: Path) -> None:
    """CommonCanvas: heads that differ between levels, linear projections around the attentions."""
    folder = save_stable_diffusion(tmp_path / "pipe")
    torch.manual_seed(1)
    unet = UNet2DConditionModel(**{**UNET, "attention_head_dim": [2, 4], "use_linear_projection": True})
    unet.save_pretrained(folder / "unet")
    assert import_weights(folder, tmp_path / "out").kind == "sd"
    loaded = Denoiser(source=str(tmp_path / "out"))
    given = (torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, int(UNET["cross_attention_dim"])))  # type: ignore[call-overload]
    expected = unet(given[0], given[1], encoder_hidden_states=given[2]).sample
    torch.testing.assert_close(loaded(*given), expected, atol=1e-6, rtol=0)


def stableviton_checkpoint() -> tuple[dict[str, Tensor], Any, Any]:
    """A checkpoint in the released code's names, its U-Net and its garment branch."""
    from unifashion_pl.generation.garment import GarmentBranch

    unet = peers.unet(13)
    branch = peers.randomise(GarmentBranch(unet, extent="full"), 3, 0.05)
    own = branch.state_dict()
    encoder = {n.removeprefix("encoder."): t for n, t in own.items() if n.startswith("encoder.")}
    copy = {n.replace("model.diffusion_model.", "control_model."): t for n, t in peers.to_ldm_unet(encoder).items()}
    state = {
        **peers.to_ldm_unet(unet.state_dict()),
        **peers.to_ldm_vae(peers.vae().state_dict()),
        **peers.ldm_process(),
        **copy,
        **{f"control_model.cond_first_block.0.{n.removeprefix('hint.')}": t for n, t in own.items() if n.startswith("hint.")},
        **{
            f"model.diffusion_model.warp_flow_blks.{n.removeprefix('blocks.')}": t
            for n, t in own.items()
            if n.startswith("blocks.")
        },
        **{
            f"model.diffusion_model.warp_zero_convs.{n.removeprefix('zero_convs.')}": t
            for n, t in own.items()
            if n.startswith("zero_")
        },
        "learnable_vector": torch.randn(1, 1, 64),
        "lastzc.weight": torch.rand(2),
        "cond_stage_model.transformer.x": torch.rand(2),
    }
    return state, unet, branch


@torch.no_grad()
def test_stableviton_brings_unet_and_garment_branch(tmp_path: Path) -> None:
    from unifashion_pl.generation.garment import GarmentBranch, denoise

    state, unet, branch = stableviton_checkpoint()
    torch.save({"state_dict": state}, tmp_path / "VITONHD.ckpt")
    report = import_weights(tmp_path / "VITONHD.ckpt", tmp_path / "out")
    assert report.kind == "stableviton"
    assert "NC" in report.licence
    assert any("below the last feature" in entry.reason for entry in report.entries)
    loaded = Denoiser(source=str(tmp_path / "out")).unet
    truncated = GarmentBranch(loaded)
    prefix = "diffusion_head.denoiser.garment."
    ours = {
        n.removeprefix(prefix): t for n, t in load_file(tmp_path / "out" / "model.safetensors").items() if n.startswith(prefix)
    }
    truncated.load_state_dict(ours)
    given, hint, gate = noisy(13), torch.randn(2, 4, 8, 8), torch.ones(2, 1, 1, 1)
    args = (given["sample"], given["timestep"], given["encoder_hidden_states"], hint, gate)
    assert torch.equal(denoise(loaded, truncated.eval(), *args), denoise(unet, branch, *args))
    with pytest.raises(ValueError, match=r"refused under --commercial-only: this may be stableviton.*NC-SA"):
        import_weights(tmp_path / "VITONHD.ckpt", tmp_path / "other", commercial_only=True)
    assert not (tmp_path / "other").exists()


def test_published_sizes_come_from_the_peers() -> None:
    counts = {kind: sum(s.numel() for s in published_tensors(kind).values()) for kind in ("sd", "pbe", "vae")}
    unet13 = sum(
        t.numel() for t in build_part("unet", {"sample_size": 64, "cross_attention_dim": 768, "in_channels": 13}).parameters()
    )
    assert unet13 == 859_546_884
    assert counts["vae"] == 83_653_863
    assert counts["pbe"] == unet13 + counts["vae"]
    assert counts["sd"] == 859_520_964 + counts["vae"] + 123_060_480
