"""What people download is opened as it lies there; half of it is a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import peers
import pytest
import torch

from unifashion_pl.weights.download import open_download
from unifashion_pl.weights.importing import import_weights


def refused(path: Path, match: str) -> None:
    """It cannot be opened, and an import leaves nothing beside it."""
    before = sorted(p.name for p in path.parent.iterdir())
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        open_download(path)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        import_weights(path, path.parent / "out")
    assert sorted(p.name for p in path.parent.iterdir()) == before


def test_several_state_dicts_in_one_file_are_not_guessed_between(tmp_path: Path) -> None:
    torch.save({"generator": {"a": torch.rand(1)}, "critic": {"a": torch.rand(1)}}, tmp_path / "gan.pt")
    with pytest.raises(ValueError, match="several state dicts: generator, critic"):
        open_download(tmp_path / "gan.pt")


def test_half_downloaded_folders(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    peers.blip2().save_pretrained(folder, max_shard_size="100KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    first = sorted(set(index["weight_map"].values()))[0]
    content = (folder / first).read_bytes()
    (folder / first).unlink()
    refused(folder, rf"half downloaded: model.safetensors.index.json names \d+ files, 1 are missing, e.g. {first}")
    (folder / first).write_bytes(content[:-10])
    refused(folder, "damaged or half downloaded")
    (folder / first).write_bytes(content)
    index["weight_map"]["not.there"] = first
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "promises 1 tensors that no shard holds, e.g. not.there")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')
    refused(folder, r"not readable JSON \(half downloaded")
