"""Tensors from files and nothing but tensors; parts of pipelines."""

from __future__ import annotations

import datetime
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from unifashion_pl.weights.files import load_tensors
from unifashion_pl.weights.rebuild import load_part

STATE = {"layer.weight": torch.arange(600.0).view(20, 30), "steps": torch.tensor(3), "half": torch.ones(4).half()}


def same(found: dict[str, Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(
        torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in STATE.items()
    )


def test_safetensors_and_pytorch_files_give_the_same_tensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save(STATE, tmp_path / "a.pt")
    torch.save(STATE, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": STATE, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, tmp_path / "a.ckpt")
    for name in ("a.safetensors", "a.pt", "a.bin", "a.ckpt"):
        assert same(load_tensors(tmp_path / name)), name
        assert same(load_tensors(str(tmp_path / name))), name


class Trap:
    """What a malicious file does: a call while it is being read."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return Path.touch, (self.witness,)


def test_pickles_with_more_than_tensors_are_refused_and_run_nothing(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    pickle.loads(pickle.dumps(Trap(witness)))
    assert witness.exists()
    witness.unlink()
    for legacy in (False, True):
        torch.save({**STATE, "more": Trap(witness)}, tmp_path / "trap.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match=r"trap.pt holds more than tensors and was not loaded: \S+$"):
            load_tensors(tmp_path / "trap.pt")
    assert not witness.exists()
    torch.save({**STATE, "day": datetime.date(2024, 1, 1)}, tmp_path / "day.pt")
    with pytest.raises(ValueError, match="not loaded: datetime.date$"):
        load_tensors(tmp_path / "day.pt")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin"])
def test_half_files_are_explained(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=name == "a.pt")
    whole = path.read_bytes()
    for size in (*range(0, 300, 20), len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"{name} "):
            load_tensors(path)
    assert size > 300
    with pytest.raises(ValueError, match=rf"\({size:,} bytes\) cannot be read: damaged or half downloaded\?"):
        load_tensors(path)


@pytest.mark.parametrize("name", ["page.pt", "page.safetensors"])
def test_a_page_saved_instead_of_a_file_is_not_called_a_pickle(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<html>404: not found</html>")
    with pytest.raises(ValueError, match=r"\(27 bytes\)") as caught:
        load_tensors(tmp_path / name)
    assert "more than tensors" not in str(caught.value)


def test_missing_files_and_other_contents_are_named(tmp_path: Path) -> None:
    for missing in (tmp_path / "no.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match="no weights file at"):
            load_tensors(missing)
    for content in ({"a": torch.zeros(1), "epoch": 3}, [torch.zeros(1)], torch.zeros(1), {"state_dict": [1]}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ValueError, match="holds no state dict"):
            load_tensors(tmp_path / "other.pt")


class Asked:
    @classmethod
    def from_pretrained(cls, name: str, **kwargs: Any) -> tuple[str, dict[str, Any]]:
        return name, kwargs


def test_parts_are_looked_for_in_pipelines_in_their_own_folders_and_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "pipe" / "vae").mkdir(parents=True)
    pipe, part = str(tmp_path / "pipe"), str(tmp_path / "pipe" / "vae")
    assert load_part(Asked, pipe, "vae", dtype=1) == (pipe, {"subfolder": "vae", "dtype": 1})
    assert load_part(Asked, Path(part), "vae") == (part, {})
    assert load_part(Asked, "owner/pipeline", "vae") == ("owner/pipeline", {"subfolder": "vae"})
    assert load_part(Asked, "owner/vae:", "vae", dtype=1) == ("owner/vae", {"dtype": 1})


def test_a_pickle_that_calls_the_system_is_named_and_not_run(tmp_path: Path) -> None:
    """torch words the modules that it blocks by name, such as ``os``, differently."""

    class Trap:
        def __reduce__(self) -> object:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"a": torch.rand(2), "b": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"trap.pth holds more than tensors and was not loaded: \w+\.system$"):
        load_tensors(tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()
