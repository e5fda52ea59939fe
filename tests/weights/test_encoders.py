"""Published image–text encoders, imported, against the peers' own classes: transformers' and open_clip's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import encoder_peers as encoders
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import images

from unifashion_pl.backbone import PublishedText, PublishedVision
from unifashion_pl.weights.check import check_weights
from unifashion_pl.weights.importing import import_weights

TEXTS = [
    "a red dress",
    "Photo of BLUE shirt, with black",
    "skirt",
    "long a red blue dress shirt long photo of with and skirt black white",
]
CLOSE = 1e-6


def compared(source: Path, model: Any, pixels: dict[str, Any], side: int = encoders.SIDE) -> None:
    """The import of a folder gives the vectors of the class that wrote it."""
    report = import_weights(source, source.with_name("imported"))
    assert sum(report.counts().values()) == len(model.state_dict())
    vision, text = (kind(str(source.with_name("imported"))).eval() for kind in (PublishedVision, PublishedText))
    pictures, ids = images(3, side), text.tokenize(TEXTS)
    full = torch.nn.functional.pad(ids, (0, text.length - ids.shape[1]))  # open_clip's CLIP reads its full length
    of_images, of_texts = encoders.published(model, pictures, full, pixels["mean"], pixels["std"])
    assert (vision.pool(vision(pictures)) - of_images).abs().max() < CLOSE
    assert (text(ids) - of_texts).abs().max() < CLOSE
    assert (of_images[0] - of_images[1]).abs().max() > 1e-4
    assert (of_texts[0] - of_texts[1]).abs().max() > 1e-4
    assert torch.equal(text.logit_scale, model.logit_scale.detach().reshape(()))


@pytest.mark.parametrize("words", [encoders.t5_words, encoders.gemma_words])
def test_siglip_of_transformers(words: Callable[[Path], int], tmp_path: Path) -> None:
    model = encoders.transformers_encoder(tmp_path / "source", "siglip", words)
    compared(tmp_path / "source", model, encoders.HALF)


def test_clip_of_transformers(tmp_path: Path) -> None:
    model = encoders.transformers_encoder(tmp_path / "source", "clip", encoders.clip_words)
    compared(tmp_path / "source", model, encoders.CLIP)


@pytest.mark.parametrize("quick", [False, True])
def test_clip_of_open_clip(quick: bool, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    config = {**encoders.open_clip_config(), **({"quick_gelu": True} if quick else {})}
    compared(tmp_path / "source", encoders.open_clip_encoder(tmp_path / "source", config, encoders.clip_words), encoders.CLIP)


def test_siglip_of_open_clip(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    config = encoders.open_siglip_config(encoders.small_siglip())
    model = encoders.open_clip_encoder(tmp_path / "source", config, encoders.t5_words, "open_clip_pytorch_model.bin")
    compared(tmp_path / "source", model, encoders.HALF)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["open_clip", "transformers"])
def test_siglip_base_at_its_full_size(by: str, tmp_path: Path) -> None:
    """Marqo-FashionSigLIP's sizes: 203 M parameters, 224 pixels, 64 tokens of 32,000."""
    if by == "open_clip":
        pytest.importorskip("open_clip")
        config = encoders.open_siglip_config("vit_base_patch16_siglip_224", 64, 768, 12, 224)
        config["text_cfg"]["vocab_size"] = 32000
        model = encoders.open_clip_encoder(tmp_path / "source", config, encoders.t5_words, scale=0.03)
    else:
        sizes = {
            "hidden_size": 768,
            "layers": 12,
            "heads": 12,
            "image_size": 224,
            "patch_size": 16,
            "length": 64,
            "vocab_size": 32000,
        }
        model = encoders.transformers_encoder(tmp_path / "source", "siglip", encoders.t5_words, **sizes, scale=0.03)
    assert sum(p.numel() for p in model.parameters()) > 203e6
    compared(tmp_path / "source", model, encoders.HALF, 224)
    assert check_weights(tmp_path / "source").complete


@pytest.mark.slow
def test_clip_base_at_its_full_size(tmp_path: Path) -> None:
    """Marqo-FashionCLIP's sizes: ViT-B-16, 150 M parameters, but for a vocabulary of its own."""
    pytest.importorskip("open_clip")
    config = {"embed_dim": 512, "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
              "text_cfg": {"context_length": 77, "width": 512, "heads": 8, "layers": 12}}  # fmt: skip
    config["text_cfg"]["vocab_size"] = 49408  # type: ignore[index]
    model = encoders.open_clip_encoder(tmp_path / "source", config, encoders.clip_words, scale=0.03)
    compared(tmp_path / "source", model, encoders.CLIP, 224)


def test_a_folder_is_recognised_and_checked(tmp_path: Path) -> None:
    encoders.transformers_encoder(tmp_path / "source", "siglip", encoders.t5_words)
    found = check_weights(tmp_path / "source")
    assert found.kind == "encoder"
    assert found.complete
    assert "12 merged" in found.text()
    assert "Apache-2.0" in found.text()


def test_what_an_import_refuses(tmp_path: Path) -> None:
    source = tmp_path / "source"
    encoders.transformers_encoder(source, "siglip", encoders.t5_words)
    tensors, words = load_file(source / "model.safetensors"), (source / "tokenizer.json").read_bytes()
    save_file({**tensors, "vision_model.more.weight": torch.zeros(2)}, source / "model.safetensors")
    refused(source, "1 of its 89 tensors are unexplained, e.g. .'vision_model.more.weight'")
    save_file({n: t for n, t in tensors.items() if "text_model.head" not in n}, source / "model.safetensors")
    refused(source, "backbone.text_tower.model.head")
    save_file(tensors, source / "model.safetensors")
    (source / "tokenizer.json").write_text("{}")
    refused(source, "tokenizer.json is no tokenizer")
    (source / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        import_weights(source, tmp_path / "out")
    (source / "tokenizer.json").write_bytes(words)
    assert import_weights(source, tmp_path / "out", part="marqo-fashion-siglip", commercial_only=True).licence == "Apache-2.0"


def refused(source: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        import_weights(source, source.with_name("out"))
    assert not source.with_name("out").exists()
