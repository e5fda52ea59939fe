"""Every stage of the paper starts from imported weights: the shipped overlays, of which only paths and sizes are changed, as `unifashion fit`
builds them, compute what the peers' own classes compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
import yaml
from test_blip2 import assert_equal_to_peer

from unifashion_pl import UniFashionModule
from unifashion_pl.backbone.tokenizer import load_tokenizer
from unifashion_pl.cli.training import UniFashionCLI, train
from unifashion_pl.weights.importing import import_weights

#: Everything that an overlay's settings are changed in: places and sizes, and float32, so that outputs can be compared.
PLACES = {"root", "shards", "weights", "tokenizer", "bert", "source", "init_from", "cache_dir"}
SIZES = {
    *("image_size", "timm_kwargs", "num_queries", "hidden_size", "num_layers", "num_heads", "intermediate_size", "embed_dim"),
    *("query_width", "context_width", "size", "pixel_size", "batch_size", "triplet_batch_size", "num_workers", "max_samples"),
    *("lora", "precision", "dtype", "accelerator", "devices", "fast_dev_run", "logger", "enable_progress_bar", "callbacks"),
}

Settings = dict[str, Any]


def part(name: str, **arguments: Any) -> Settings:
    return {"class_path": f"unifashion_pl.{name}", "init_args": arguments}


def changed(settings: Settings) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict) and name not in SIZES:
            yield from changed(value)
        elif name != "class_path":
            yield name


def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configs: list[str], settings: Settings) -> UniFashionModule:
    """The model of `unifashion fit` with these configs, before its first step."""
    assert set(changed(settings)) <= PLACES | SIZES
    path = tmp_path / "sizes.yaml"
    path.write_text(yaml.safe_dump(settings))
    kept: list[UniFashionModule] = []
    monkeypatch.setattr(UniFashionCLI, "_run_subcommand", lambda cli, _name: kept.append(cli.model))
    train(["fit", *(word for config in (*configs, str(path)) for word in ("--config", config))])
    return kept[0].eval()


def backbone(tmp_path: Path, weights: Path | str, **more: Any) -> Settings:
    load_tokenizer("tiny").save_pretrained(tmp_path / "tokenizer")
    eva = {"depth": 2, "embed_dim": peers.WIDTH, "num_heads": 2, "mlp_ratio": 2.0}
    vision = part("backbone.VisionTower", image_size=peers.SIDE, timm_kwargs=eva, weights=str(weights), dtype="float32")
    sizes = {"hidden_size": peers.HIDDEN, "num_layers": peers.LAYERS, "num_heads": 2, "intermediate_size": 48}
    return part(
        "backbone.QFormerBackbone",
        vision=vision,
        tokenizer=str(tmp_path / "tokenizer"),
        num_queries=peers.QUERIES,
        **sizes,
        **more,
    )


RETRIEVAL = part("tasks.RetrievalModule", hidden_size=peers.HIDDEN, embed_dim=peers.EMBED)


@pytest.mark.parametrize("form", ["lavis", "transformers"])
def test_the_representation_stage_starts_from_imported_blip2(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = peers.blip2()
    if form == "lavis":
        torch.save({"model": peers.to_lavis(peer.state_dict())}, tmp_path / "download")
    else:
        peer.save_pretrained(tmp_path / "download")
    import_weights(tmp_path / "download", tmp_path / "weights" / "blip2")
    monkeypatch.chdir(tmp_path)  # the overlay's own path, weights/blip2
    settings = {"model": {"backbone": backbone(tmp_path, "weights/blip2"), "retrieval": RETRIEVAL}}
    model = started(tmp_path, monkeypatch, ["phase1.yaml", "paper.yaml", "paper-representation.yaml"], settings)
    assert_equal_to_peer(model, peer)
    if form == "lavis":
        assert float(model.retrieval_head.temperature.detach()) == pytest.approx(0.0123)  # type: ignore[union-attr]
