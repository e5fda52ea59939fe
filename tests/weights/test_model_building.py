"""What a file claims is checked against what it holds before anything is allocated; damage of any kind is a sentence."""

from __future__ import annotations

import copy
import json
import pickle
import random
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unifashion_pl import UniFashionModule
from unifashion_pl.weights.checkpoint import read_checkpoint, read_state
from unifashion_pl.weights.files import load_tensors
from unifashion_pl.weights.ledger import Report

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


def test_tensors_of_another_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    state = load_tensors(folder / "model.safetensors")
    target = changed(folder, tmp_path / "m", "format", 1)
    (target / "model.safetensors").unlink()
    name = "backbone.query_tokens"
    for tensor in (state[name].bool(), state[name].long(), state[name][:, :1]):
        save_file({**state, name: tensor.contiguous()}, target / "model.safetensors")
        with pytest.raises(ValueError, match=r"1 of another shape \['backbone.query_tokens: file"):
            UniFashionModule.from_pretrained(target)


def test_states_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    huge = torch.zeros(1).expand(1 << 40)
    states: list[Any] = [
        [],
        None,
        {"a": "text"},
        {1: torch.ones(1)},
        {"a": {"b": torch.ones(1)}},
        {"a": huge},
        {"a": torch.eye(3).to_sparse()},
        {"a": torch.ones(3, device="meta")},
    ]
    for state in states:
        torch.save({"state_dict": state, "hyper_parameters": {"backbone": {}}}, path)
        for read in (read_state, read_checkpoint, UniFashionModule.from_pretrained):
            with pytest.raises(ValueError, match="a.ckpt"):
                read(path)


def test_packed_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, tmp_path / "plain.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "plain.ckpt") as plain,
        zipfile.ZipFile(tmp_path / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    with pytest.raises(ValueError, match="PyTorch packs nothing"):
        read_state(tmp_path / "a.ckpt")


def test_damaged_bytes_are_sentences(folder: Path, tmp_path: Path) -> None:
    """Flipped, cut and added bytes; whatever still reads is whole."""
    rng, seen = random.Random(0), 0
    good = {"a": torch.arange(60.0), "b": torch.ones(2, 3)}
    save_file(good, tmp_path / "a.safetensors")
    torch.save({"state_dict": good, "hyper_parameters": {"backbone": {}}}, tmp_path / "a.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
    for file in sorted(tmp_path.iterdir()):
        data = file.read_bytes()
        for _ in range(120):
            changed = bytearray(data)
            for _ in range(rng.choice([1, 4])):
                changed[rng.randrange(min(len(data), rng.choice([200, len(data)])))] = rng.randrange(256)
            path = tmp_path / f"damaged{file.suffix}"
            path.write_bytes(changed[: rng.choice([len(data), len(data), rng.randrange(len(data))])])
            said = ""
            try:
                state = read_state(path)
            except ValueError as error:
                said, state = str(error), {}
                seen += 1
            assert str(path) in said or state
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    assert seen > 150


def test_reports_of_imports_are_typed(tmp_path: Path) -> None:
    good = {"format": "unifashion-import/1", "kind": "tower", "source": "x", "entries": [{"action": "taken", "sources": ["a"]}]}
    (tmp_path / "report.json").write_text(json.dumps(good))
    assert Report.read(tmp_path).entries[0].sources == ("a",)
    for field, value in {"kind": 3, "entries": [{"action": "eaten", "sources": []}], "absent": [], "folders": {"a": 1}}.items():
        (tmp_path / "report.json").write_text(json.dumps({**copy.deepcopy(good), field: value}))
        with pytest.raises(ValueError, match=rf"report\.json: .*\$\.{field}"):
            Report.read(tmp_path)


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
