"""What a file claims is checked against what it holds before anything is allocated; damage of any kind is a sentence."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from unifashion_pl import UniFashionModule
from unifashion_pl.parts.tensors import load_tensors

VISION = "model.backbone.init_args.vision.init_args"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = UniFashionModule.from_config("phase1.yaml", {"policy": "phase1_retrieval", "caption": None, "diffusion": None})
    return model.save_pretrained(tmp_path_factory.mktemp("saved") / "m")


def changed(folder: Path, target: Path, path: str, value: Any) -> Path:
    target.mkdir()
    (target / "model.safetensors").symlink_to(folder / "model.safetensors")
    content = json.loads((folder / "config.json").read_text())
    node, keys = content, path.split(".")
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    (target / "config.json").write_text(json.dumps(content))
    return target


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.backbone.init_args.num_queries", 10**10),
        ("model.backbone.init_args.intermediate_size", 10**8),
        ("model.backbone.init_args.num_layers", 10**9),
        ("model.backbone.init_args.vocab_size", 10**9),
        (f"{VISION}.name", "eva_giant_patch14_clip_224"),
        (f"{VISION}.timm_kwargs", {"layers": [10**9, 1, 1, 1]}),
    ],
)
def test_sizes_that_are_only_claimed_are_not_allocated(path: str, value: Any, folder: Path, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=str(tmp_path)):
        UniFashionModule.from_pretrained(changed(folder, tmp_path / "m", path, value))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 2),
        ("model", []),
        ("model", {}),
        ("model.backbone", None),
        ("model.policy", "no such"),
        ("model.loss_weights", {"no such": 1}),
        ("model.leave_out", ["no such"]),
        ("model.leave_out", 3),
        ("model.no_such_field", 1),
        (f"{VISION}.image_size", "large"),
        (f"{VISION}.timm_kwargs", {"stem_width": -1}),
        (f"{VISION}.dtype", "int8"),
        ("model.backbone.init_args.num_heads", 0),
        ("model.backbone.init_args.tokenizer", "/no/such/folder"),
    ],
)
def test_configs_that_make_no_model_are_sentences_with_the_file(path: str, value: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=str(tmp_path)):
        UniFashionModule.from_pretrained(changed(folder, tmp_path / "m", path, value))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: {\n", r"bad.yaml:2 is not a config"),
        (b"model: \xe9\n", r"bad.yaml:1: not UTF-8"),
        (b"- 1\n", r"bad.yaml is not a config: Expected `object`, got `array`"),
        (b"model: null\n", r"bad.yaml has no `model:` section"),
        (b"model: {policy: 3}\n", r"bad.yaml: .*model.policy"),
    ],
)
def test_configs_of_another_form_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        UniFashionModule.from_config(tmp_path / "bad.yaml")


def test_tensors_of_another_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    state = load_tensors(folder / "model.safetensors")
    target = changed(folder, tmp_path / "m", "format", 1)
    (target / "model.safetensors").unlink()
    name = "backbone.query_tokens"
    for tensor in (state[name].bool(), state[name].long(), state[name][:, :1]):
        save_file({**state, name: tensor.contiguous()}, target / "model.safetensors")
        with pytest.raises(ValueError, match=r"1 of another shape \['backbone.query_tokens: file"):
            UniFashionModule.from_pretrained(target)
