"""A saved model is there as a whole, or the older one is; what a user put beside it stays."""

from __future__ import annotations

import os
import resource
import signal
import stat
from pathlib import Path

import huggingface_hub
import pytest
import torch

from unifashion_pl import UniFashionModule
from unifashion_pl.weights import checkpoint


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return UniFashionModule.from_config("phase1.yaml", {"policy": "phase1_retrieval", "caption": None, "diffusion": None})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_older_model_is_replaced_and_a_users_files_stay(model: UniFashionModule, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m", results=None)
    (folder / "results.json").write_text("[]")  # of the older model
    (folder / "parts").mkdir()
    (folder / "parts" / "old").touch()
    (folder / "README.md").write_text("my own words")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("mine")
    (folder / "link").symlink_to("notes/a.txt")
    model.save_pretrained(folder, torch.float16)
    assert sorted(contents(folder)) == ["README.md", "config.json", "link", "model.safetensors", "notes/a.txt"]
    assert (folder / "README.md").read_text() == "my own words"
    assert (folder / "link").is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_permissions_follow_the_umask(model: UniFashionModule, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = model.save_pretrained(tmp_path / "m")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


@pytest.mark.parametrize("failing", ["write_tensors", "model_card", "blueprints"])
def test_a_failure_leaves_the_older_model(
    failing: str, model: UniFashionModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    older = contents(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, failing, full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(folder, torch.float16)
    assert contents(folder) == older
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_other_libraries_models_and_the_current_folder_are_not_replaced(
    model: UniFashionModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FileExistsError, match="was not written by this library"):
        model.save_pretrained(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is the current folder"):
        model.save_pretrained(".")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_full_disk_leaves_the_older_model(model: UniFashionModule, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    older, limits = contents(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (folder / "model.safetensors").stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="model"):
            model.save_pretrained(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(folder) == older
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("name", ["nothing", "/nowhere/x", "./a/b", "three/parts/x", "a b"])
def test_names_that_are_no_hub_ids_ask_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("the hub was asked"))
    with pytest.raises(FileNotFoundError, match="there is no model .*expected 'tiny', a folder, a .ckpt, or a hub id"):
        UniFashionModule.from_pretrained(name)
