"""The text side without torch against the model itself."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from unifashion_pl.backbone.tokenizer import load_tokenizer
from unifashion_pl.inference.encode import encode_text, fingerprint
from unifashion_pl.inference.text_encoder import TextEncoder
from unifashion_pl.module import UniFashionModule

TEXTS = [
    "a red dress",
    'Is "RED"; has  longer sleeves (38)! #7 – Ünï',
    "red платье 🔥 zzqx",
    "the [DEC] dress [MASK] don't",
    " ".join(["a long blue shirt with"] * 20),
    "日本の red",
    "x",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with other sizes than the shipped one's, whose tokenizer lay in a folder that is gone."""
    folder = tmp_path_factory.mktemp("saved")
    load_tokenizer("tiny").save_pretrained(folder / "words")
    tower = {"name": "resnet10t", "image_size": 32, "timm_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8}}
    sizes = {
        "hidden_size": 24,
        "num_layers": 3,
        "num_heads": 3,
        "intermediate_size": 40,
        "num_queries": 5,
        "max_text_tokens": 12,
    }
    backbone = {"vision": tower, "tokenizer": str(folder / "words"), "initializer_range": 0.3, **sizes}
    section = {"backbone": backbone, "retrieval": {"hidden_size": 24, "embed_dim": 16}, "policy": "phase1_retrieval"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": section}))
    torch.manual_seed(0)
    model = UniFashionModule.from_config(folder / "config.yaml")
    model.learned = frozenset({"retrieval"})
    model.save_pretrained(folder / "model")
    shutil.rmtree(folder / "words")
    return folder / "model"


@pytest.mark.parametrize("source", ["tiny", "saved"])
def test_vectors_are_the_model_s(source: str, saved: Path) -> None:
    place = source if source == "tiny" else saved
    model, encoder = UniFashionModule.from_pretrained(place), TextEncoder.of(place)
    assert encoder is not None
    with warnings.catch_warnings(record=True) as expected:
        warnings.simplefilter("always")
        vectors = encode_text(model, TEXTS).numpy()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = np.stack(encoder.texts(TEXTS))
    assert found == pytest.approx(vectors, abs=2e-6)
    assert [str(one.message) for one in said] == [str(one.message) for one in expected] != []
    assert all(one.filename == __file__ for one in said)
    assert encoder.fingerprint == fingerprint(model)
    assert (encoder.width, encoder.num_queries) == (vectors.shape[1], model.backbone.num_queries)
    assert [encoder.reading_of(text) for text in TEXTS] == [model.backbone.reading_of(text) for text in TEXTS]


def test_what_cannot_be_read_is_refused_as_by_the_model() -> None:
    encoder = TextEncoder.of("tiny")
    assert encoder is not None
    with warnings.catch_warnings(), pytest.raises(ValueError, match=r"nothing of 'красное' can be read .*\(Latin letters\)"):
        warnings.simplefilter("ignore")
        encoder.texts(["red", "красное"])
    with pytest.raises(TypeError):
        encoder.texts([3])  # type: ignore[list-item]


def _other_class(config: dict[str, Any]) -> None:
    config["model"]["backbone"]["class_path"] = "mine.Backbone"


def _unlearned(config: dict[str, Any]) -> None:
    config["learned"] = ["caption"]


def _newer(config: dict[str, Any]) -> None:
    config["format"] = 2


def _larger(config: dict[str, Any]) -> None:
    config["model"]["backbone"]["init_args"]["num_layers"] = 40


@pytest.mark.parametrize("change", [_other_class, _unlearned, _newer, _larger])
def test_models_that_have_to_be_built_to_be_known_or_refused(change: Any, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    assert TextEncoder.of(tmp_path / "model") is None


def test_files_that_are_damaged_or_no_folder(saved: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "parts/qformer/tokenizer.json"):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(saved, folder)
        (folder / name).write_bytes(b'{"half": ')
        assert TextEncoder.of(folder) is None
        (folder / name).unlink()
        assert TextEncoder.of(folder) is None
    assert TextEncoder.of("somebody/model") is None
    (tmp_path / "half.ckpt").write_bytes(b"PK")
    assert TextEncoder.of(tmp_path / "half.ckpt") is None
    assert TextEncoder.of(tmp_path / "last.ckpt") is None


def test_a_checkpoint_is_read_as_its_folder(saved: Path, tmp_path: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    files = {file.name: file.read_bytes() for file in (saved / "parts" / "qformer").iterdir()}
    content = {
        "state_dict": load_file(saved / "model.safetensors"),
        "hyper_parameters": config["model"],
        "parts": {"qformer": files},
    }
    torch.save(content | {"unifashion_learned": config["learned"]}, tmp_path / "last.ckpt")
    one, two = TextEncoder.of(saved), TextEncoder.of(tmp_path / "last.ckpt")
    assert one is not None
    assert two is not None
    assert two.fingerprint == one.fingerprint
    assert np.array_equal(two.texts("a red dress")[0], one.texts("a red dress")[0])
    assert UniFashionModule.from_pretrained(tmp_path / "last.ckpt").learned == {"retrieval"}
    torch.save(content | {"unifashion_learned": ["caption"]}, tmp_path / "last.ckpt")
    assert TextEncoder.of(tmp_path / "last.ckpt") is None
