"""Configs of image–text encoders: what is read of them, and other architectures, which are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import encoder_peers as encoders
import pytest

from unifashion_pl.weights.download import Download
from unifashion_pl.weights.encoder_settings import settings_of


def test_settings_of_open_clips_siglip2(tmp_path: Path) -> None:
    """ViT-B-16-SigLIP2 as open_clip describes it, but for a vocabulary of its own."""
    config = encoders.open_siglip_config("vit_base_patch16_siglip_224", 64, 768, 12, 224)
    config["text_cfg"] |= {"vocab_size": 256000, "act_kwargs": {"approximate": "tanh"}}
    encoders.gemma_words(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": encoders.HALF}))
    encoder, words = settings_of(Download(tmp_path), True)
    assert (encoder.width, encoder.image.name, encoder.image.image_size) == (768, "vit_base_patch16_siglip_224", 224)
    assert encoder.image.mean == (0.5, 0.5, 0.5)
    assert words == tmp_path / "tokenizer.json"
    text = encoder.text
    assert (text.kind, text.clean, text.pad, text.end) == ("siglip", "canonicalize", 0, 1)
    assert (text.config["hidden_act"], text.config["layer_norm_eps"], text.config["max_position_embeddings"]) == (
        "gelu_pytorch_tanh", 1e-6, 64)  # fmt: skip


def _resnet(config: dict[str, Any]) -> None:
    config["vision_cfg"]["layers"] = [3, 4, 6, 3]


def _pool(config: dict[str, Any]) -> None:
    config["text_cfg"]["pool_type"] = "first"


def _more(config: dict[str, Any]) -> None:
    config["vision_cfg"]["attentional_pool"] = True


def _endless(config: dict[str, Any]) -> None:
    config["vision_cfg"]["layers"] = 10**7


def _none(config: dict[str, Any]) -> None:
    config["text_cfg"]["layers"] = 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_endless, "a tower of 10000000 layers"),
        (_none, "a tower of 0 layers"),
        (_resnet, "describes a ResNet"),
        (_pool, "pools by 'first'"),
        (_more, "attentional_pool"),
    ],
)
def test_other_architectures_of_open_clip(change: Callable[[dict[str, Any]], None], match: str, tmp_path: Path) -> None:
    config = encoders.open_clip_config()
    config["text_cfg"]["vocab_size"] = encoders.clip_words(tmp_path)
    change(config)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(ValueError, match=match):
        settings_of(Download(tmp_path), True)


def test_other_tokenizers(tmp_path: Path) -> None:
    config = encoders.open_clip_config()
    config["text_cfg"]["vocab_size"] = encoders.clip_words(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    settings_of(Download(tmp_path), True)
    encoders.gemma_words(tmp_path)
    with pytest.raises(ValueError, match="the tokenizer of another model"):
        settings_of(Download(tmp_path), True)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="has to name eos_token and pad_token"):
        settings_of(Download(tmp_path), True)


def test_siglip2_of_any_shape_is_refused(tmp_path: Path) -> None:
    encoders.t5_words(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    with pytest.raises(ValueError, match="those of any shape, siglip2, are not read"):
        settings_of(Download(tmp_path), False)


def test_no_config(tmp_path: Path) -> None:
    encoders.t5_words(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no open_clip_config\.json, which says the sizes"):
        settings_of(Download(tmp_path), True)
