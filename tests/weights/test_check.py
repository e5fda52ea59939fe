"""What a file is, whether it is whole, and what the manifest knows; the commands as they are typed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import peers
import pytest
import torch
from small import save_stable_diffusion

from unifashion_pl.cli import main
from unifashion_pl.weights.check import check_weights
from unifashion_pl.weights.manifest import PublishedPart, digest


def test_a_scaled_down_file_is_whole_but_not_of_the_published_size(tmp_path: Path) -> None:
    torch.save({"model": peers.to_lavis(peers.blip2().state_dict())}, tmp_path / "x.pth")
    found = check_weights(tmp_path / "x.pth")
    assert (found.kind, found.complete, found.as_published, found.known) == ("blip2-lavis", True, False, None)
    text = found.text()
    assert "under 'model'" in text
    assert "size: not the published one, 128 of 129 shapes differ" in text
    assert "e.g. backbone.embeddings.position_embeddings.weight: file (512, 24), expected (512, 768)" in text
    assert hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest() in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pth"]


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = peers.to_lavis(peers.blip2().state_dict())
    del state["Qformer.bert.encoder.layer.2.output.dense.bias"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(SystemExit) as status:
        main(["weights", "check", str(tmp_path / "x.pth")])
    assert status.value.code == 1
    assert "NOT COMPLETE: " in (text := capsys.readouterr().out)
    assert "1 tensors missing ['backbone.qformer.encoder.layer.2.output.dense.bias']" in text


def test_a_published_size_is_recognised(tmp_path: Path) -> None:
    from unifashion_pl.weights.check import published_tensors
    from unifashion_pl.weights.ldm import build_part

    shapes = {name: tensor.shape for name, tensor in published_tensors("vae").items()}
    model = build_part("vae", {**peers.VAE, "block_out_channels": [128, 256, 512, 512],
                               "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4})  # fmt: skip
    assert {f"vae/{n}": t.shape for n, t in model.state_dict().items()} == shapes
    model.to_empty(device="cpu").half().save_pretrained(tmp_path / "vae")
    found = check_weights(tmp_path / "vae")
    assert (found.kind, found.complete, found.as_published) == ("vae", True, True)
    assert "83,653,863 numbers (float16)" in found.text()


def test_pipelines_and_strange_files(tmp_path: Path) -> None:
    found = check_weights(save_stable_diffusion(tmp_path / "pipe"))
    assert (found.kind, found.complete, found.as_published) == ("sd", True, False)
    assert "OpenRAIL" in found.text()
    torch.save({"a": torch.rand(3)}, tmp_path / "x.pt")
    found = check_weights(tmp_path / "x.pt")
    assert (found.kind, found.complete) == (None, False)


def test_a_known_hash_names_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.rand(3)}, tmp_path / "x.pt")
    part = PublishedPart("mine", None, "here", None, "x.pt", None, digest(tmp_path / "x.pt"), "CC0", "yes", "a test")
    monkeypatch.setattr("unifashion_pl.weights.check.load_manifest", lambda: [part])
    found = check_weights(tmp_path / "x.pt")
    assert found.complete
    assert found.known == part
    assert "it is mine (a test); licence CC0, commercial use: yes" in found.text()
