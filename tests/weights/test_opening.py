"""What `doctor` calls here has been opened: folders and files that fit, and each way in which they do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_matrix import ddim, pipeline
from test_starts import RETRIEVAL, backbone, blip2_folder, caption_head, diffusion_head, llm_and_lora

from unifashion_pl import UniFashionModule
from unifashion_pl.doctor import examine_overlay
from unifashion_pl.weights.importing import import_weights


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """The paper's phase 1 at small sizes with everything in its place."""
    blip2 = blip2_folder(tmp_path)
    llm_and_lora(tmp_path)
    pipeline(tmp_path / "sd", ddim(prediction_type="v_prediction"))
    import_weights(tmp_path / "sd", tmp_path / "weights" / "sd")
    model = {
        "backbone": backbone(tmp_path, blip2),
        "retrieval": RETRIEVAL,
        "caption": caption_head(tmp_path),
        "diffusion": diffusion_head(tmp_path / "weights" / "sd"),
        "init_from": [[blip2, str(tmp_path / "weights" / "lora")]],
    }
    (tmp_path / "sizes.yaml").write_text(yaml.safe_dump({"model": model}))
    return ["phase1.yaml", "paper.yaml", str(tmp_path / "sizes.yaml")]


def verdicts(configs: list[str], tmp_path: Path) -> dict[str, str]:
    """Source below ``tmp_path`` -> what is said of it."""
    rows = [row for row in examine_overlay(configs).splitlines() if row.startswith(("needs", "starts"))]
    found = {}
    for row in rows:
        name = "start" if row.startswith("starts") else Path(row.split()[1]).name
        found[name] = row[row.index("here") :] if "here" in row else row
    return found


def edited(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file)


def test_everything_that_fits_is_here_and_everything_else_says_why(places: list[str], tmp_path: Path) -> None:
    assert set(verdicts(places, tmp_path)) == {"blip2", "tokenizer", "llm", "sd", "start"}
    assert set(verdicts(places, tmp_path).values()) == {"here"}
    weights = tmp_path / "weights"
    edited(weights / "blip2" / "model.safetensors", lambda s: s.pop("backbone.vision.model.cls_token"))
    edited(weights / "llm" / "model.safetensors", lambda s: s.update({"model.norm.weight": torch.ones(7)}))
    edited(weights / "sd" / "unet" / "diffusion_pytorch_model.safetensors", lambda s: s.pop("conv_in.bias"))
    found = verdicts(places, tmp_path)
    assert "1 tensors missing ['cls_token']" in found["blip2"]
    assert "model.norm.weight: file (7,), expected (32,)" in found["llm"]
    assert "1 tensors missing ['conv_in.bias']" in found["sd"]
    assert "does not fit this model" in found["start"]
    assert found["tokenizer"] == "here"
    (weights / "llm" / "model.safetensors").write_bytes(b"half")
    ddim(rescale_betas_zero_snr=True).save_pretrained(weights / "sd" / "scheduler")
    found = verdicts(places, tmp_path)
    assert "cannot be read: damaged or half downloaded?" in found["llm"]
    assert "rescale_betas_zero_snr" in found["sd"]


def test_a_start_of_another_size_or_of_another_kind_is_unfit(tmp_path: Path) -> None:
    blip2 = blip2_folder(tmp_path)
    settings = {"backbone": backbone(tmp_path, blip2), "retrieval": RETRIEVAL, "caption": None, "diffusion": None}
    config = tmp_path / "sizes.yaml"

    def said(start: Path) -> str:
        config.write_text(yaml.safe_dump({"model": {**settings, "init_from": str(start)}}))
        return verdicts(["phase1.yaml", "paper.yaml", str(config)], tmp_path)["start"]

    own = UniFashionModule.from_config(["phase1.yaml"], {"policy": "phase1_retrieval", "caption": None, "diffusion": None})
    own.save_pretrained(tmp_path / "tiny")
    assert "of another shape" in said(tmp_path / "tiny")
    (tmp_path / "file.ckpt").write_bytes(b"nothing")
    assert "is no weights file, or a damaged one" in said(tmp_path / "file.ckpt")
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "other.ckpt")
    assert "does not fit" in said(tmp_path / "other.ckpt")
    assert said(Path(blip2)) == "here"
    assert peers.WIDTH == 32


def test_files_that_their_library_would_not_find_or_fill_up_are_unfit(places: list[str], tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    unet = weights / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    edited(weights / "llm" / "model.safetensors", lambda s: s.pop("lm_head.weight"))
    unet.rename(unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    found = verdicts(places, tmp_path)
    assert "1 tensors missing ['lm_head.weight']" in found["llm"]
    assert "fp16.safetensors is not looked for under this name: expected diffusion_pytorch_model.safetensors" in found["sd"]
    unet.with_name("diffusion_pytorch_model.fp16.safetensors").rename(unet)
    shutil.rmtree(weights / "sd" / "tokenizer")
    assert "no CLIP tokenizer" in verdicts(places, tmp_path)["sd"]
    (weights / "sd" / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_')
    edited(unet, lambda s: s.update({"conv_in.weight": torch.ones(4)}))
    assert verdicts(places, tmp_path)["sd"].startswith("here, but unfit: ")
