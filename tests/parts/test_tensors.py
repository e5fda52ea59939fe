"""Tensors from files and nothing but tensors; damage of any kind is a sentence."""

from __future__ import annotations

import datetime
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from unifashion_pl import UniFashionModule
from unifashion_pl.parts.tensors import load_tensors
from unifashion_pl.weights.checkpoint import read_checkpoint, read_state

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
    (tmp_path / name).write_text("hello\n")  # of which pickle makes a KeyError: 101
    with pytest.raises(ValueError, match=r"\(6 bytes\) cannot be read: .*Expected a .safetensors or PyTorch file") as caught:
        load_tensors(tmp_path / name)
    assert "Error" not in str(caught.value).replace("Error while", "")


def test_missing_files_and_other_contents_are_named(tmp_path: Path) -> None:
    for missing in (tmp_path / "no.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match="no weights file at"):
            load_tensors(missing)
    for content in ({"a": torch.zeros(1), "epoch": 3}, [torch.zeros(1)], torch.zeros(1), {"state_dict": [1]}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ValueError, match="holds no state dict"):
            load_tensors(tmp_path / "other.pt")


def test_a_pickle_that_calls_the_system_is_named_and_not_run(tmp_path: Path) -> None:
    """torch words the modules that it blocks by name, such as ``os``, differently."""

    class Trap:
        def __reduce__(self) -> object:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"a": torch.rand(2), "b": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"trap.pth holds more than tensors and was not loaded: \w+\.system$"):
        load_tensors(tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


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


def test_damaged_bytes_are_sentences(tmp_path: Path) -> None:
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
