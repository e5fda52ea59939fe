"""Imports that must not happen: each a sentence, nothing left on disk, and no code run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from safetensors.torch import save_file

from unifashion_pl.cli import main
from unifashion_pl.parts.tensors import read_content
from unifashion_pl.weights.importing import import_weights
from unifashion_pl.weights.ledger import Report, is_imported


def refused(path: Path, match: str, **kwargs: Any) -> None:
    """The import fails with this sentence and leaves nothing beside its source."""
    before = sorted(p.name for p in path.parent.iterdir())
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        import_weights(path, path.parent / "out", **kwargs)
    assert sorted(p.name for p in path.parent.iterdir()) == before


@pytest.fixture(scope="module")
def lavis() -> dict[str, torch.Tensor]:
    return peers.to_lavis(peers.blip2().state_dict())


def test_truncated_files(lavis: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(lavis, tmp_path / "x.pth")
    save_file({n: t.clone() for n, t in lavis.items()}, tmp_path / "x.safetensors")
    for name in ("x.pth", "x.safetensors"):
        path = tmp_path / name
        whole = path.read_bytes()
        for size in (10, len(whole) // 2, len(whole) - 100):
            path.write_bytes(whole[:size])
            refused(path, rf"{name} \({size:,} bytes\)")


class Trap:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return Path.touch, (self.witness,)


def test_pickles_with_code_in_them(lavis: dict[str, torch.Tensor], tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    torch.save({"model": lavis, "hook": Trap(tmp_path / "witness")}, tmp_path / "source" / "x.pth")
    refused(tmp_path / "source" / "x.pth", "holds more than tensors and was not loaded")
    assert not (tmp_path / "witness").exists()


class ModelCheckpoint:
    """Pickled under Lightning's old name, as Stable Diffusion's checkpoints name it."""


def test_lightnings_callback_class_in_a_checkpoint_is_passed_over_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = peers.to_ldm_vae(peers.vae().state_dict(), "")
    with monkeypatch.context() as patch:
        import pytorch_lightning.callbacks.model_checkpoint as original

        patch.setattr(ModelCheckpoint, "__module__", original.__name__)
        patch.setattr(original, "ModelCheckpoint", ModelCheckpoint)
        callbacks = {ModelCheckpoint: {"best_model_score": torch.tensor(1.0)}}
        torch.save({"state_dict": state, "callbacks": callbacks}, tmp_path / "x.ckpt")
    assert b"pytorch_lightning.callbacks.model_checkpoint" in (tmp_path / "x.ckpt").read_bytes()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert [key.__name__ for key in read_content(tmp_path / "x.ckpt")["callbacks"]] == ["Inert"]
    assert import_weights(tmp_path / "x.ckpt", tmp_path / "out").kind == "vae"


def test_numpys_scalars_in_a_checkpoint_are_passed_over(tmp_path: Path) -> None:
    state = peers.to_ldm_vae(peers.vae().state_dict(), "")
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": state, "best_model_score": np.float64(0.5)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))  # as numpy 1 wrote it
    assert type(read_content(path)["best_model_score"]).__name__ == "Inert"
    assert import_weights(path, tmp_path / "out").kind == "vae"


def test_other_architectures(lavis: dict[str, torch.Tensor], tmp_path: Path) -> None:
    import timm
    from transformers import BertConfig, BertModel

    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet.pth")
    refused(tmp_path / "resnet.pth", "none of the known checkpoints")
    refused(tmp_path / "resnet.pth", "read as blip2-lavis, but 86 of its 86 tensors are unexplained", kind="blip2-lavis")
    refused(tmp_path / "resnet.pth", "unknown kind 'blip3'.*did you mean", kind="blip3")
    refused(tmp_path / "resnet.pth", "read as sd, but 'model.diffusion_model.input_blocks.0.0.weight' is missing", kind="sd")
    bert = BertModel(BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48))
    bert.save_pretrained(tmp_path / "bert")
    refused(tmp_path / "bert", "none of the known checkpoints")
    torch.save({**lavis, "t5_proj.weight": torch.rand(2)}, tmp_path / "blip2-t5.pth")
    refused(tmp_path / "blip2-t5.pth", r"1 of its \d+ tensors are unexplained, e.g. \['t5_proj.weight'\]")
    wide = {**lavis, "ln_vision.weight": torch.rand(9)}
    torch.save(wide, tmp_path / "wide.pth")
    refused(tmp_path / "wide.pth", r"backbone.ln_vision.weight: file \(9,\), expected \(32,\)")
    torch.save({"epoch": 3, "note": "no weights"}, tmp_path / "empty.pt")
    refused(tmp_path / "empty.pt", "no state dict, only epoch, note")
    (tmp_path / "bare").mkdir()
    refused(tmp_path / "bare", "holds no weights")
    refused(tmp_path / "nowhere", "no checkpoint at")


def test_options_that_do_not_belong_together_and_folders_that_exist(lavis: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(lavis, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "holds a vision tower of its own", tower=tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "--base belongs to a LoRA", base=tmp_path)
    refused(tmp_path / "x.pth", "BSD-3-Clause .*commercial use unclear", commercial_only=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="exists already"):
        import_weights(tmp_path / "x.pth", tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert import_weights(tmp_path / "x.pth", tmp_path / "empty").kind == "blip2-lavis"
    assert is_imported(tmp_path / "empty")
    assert not is_imported(tmp_path / "full")


def test_a_failure_while_writing_leaves_nothing(
    lavis: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(lavis, tmp_path / "x.pth")

    def full_disk(self: Report, folder: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        raise OSError("No space left on device")

    monkeypatch.setattr(Report, "write", full_disk)
    with pytest.raises(OSError, match="No space"):
        import_weights(tmp_path / "x.pth", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_import_as_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": peers.to_lavis(peers.blip2().state_dict())}, tmp_path / "x.pth")
    main(["weights", "import", str(tmp_path / "x.pth"), "--as", "blip2-lavis", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "dropped 1: equal to the word embeddings" in printed
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.safetensors", "report.json"]
    with pytest.raises(SystemExit) as status:
        main(["weights", "import", str(tmp_path / "x.pth"), "--out", str(tmp_path / "free"), "--commercial-only"])
    assert status.value.code == 2
    assert "refused under --commercial-only" in capsys.readouterr().err
    assert not (tmp_path / "free").exists()
