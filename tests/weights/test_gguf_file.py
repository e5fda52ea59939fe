"""GGUF files, read or refused: cut, with sizes that cannot be, with changed bytes; and their numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unifashion_pl.weights.gguf_file import GGUFTensors, read_gguf

pytest.importorskip("gguf", reason="the package gguf is not installed (the extra gguf)")
from gguf_peer import write_gguf


def test_metadata_shapes_and_numbers_are_those_that_gguf_s_own_reader_finds(tmp_path: Path) -> None:
    from gguf import GGUFReader, dequantize

    write_gguf(tmp_path / "model.gguf", kind="Q5_1")
    ours, peer = read_gguf(tmp_path / "model.gguf"), GGUFReader(tmp_path / "model.gguf")
    own = {name: field.contents() for name, field in peer.fields.items() if not name.startswith("GGUF.")}
    assert ours.values == own
    tensors = GGUFTensors(ours)
    assert list(tensors) == [tensor.name for tensor in peer.tensors]
    for tensor in peer.tensors:
        assert torch.equal(tensors[tensor.name], torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)))


def test_a_file_that_is_not_there_or_is_another_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no GGUF file at"):
        read_gguf(tmp_path / "none.gguf")
    (tmp_path / "other.gguf").write_bytes(b"PK" * 40)
    with pytest.raises(ValueError, match=r"other\.gguf .*does not begin with GGUF"):
        read_gguf(tmp_path / "other.gguf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path, kind="Q8_0")
    return path.read_bytes()


def test_files_cut_anywhere_are_refused_with_their_name(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "cut.gguf"
    places = [0, 3, 4, 12, 23, 24, 60, 500, len(whole) // 2, len(whole) - 40]
    for place in places:
        path.write_bytes(whole[:place])
        with pytest.raises(ValueError, match=r"cut\.gguf .*(damaged|half downloaded)"):
            read_gguf(path)


def test_claims_of_sizes_are_compared_with_the_file_before_anything_is_made(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "large.gguf"
    for place in (8, 16, 24):  # tensors, entries, the first text
        data = bytearray(whole)
        data[place : place + 8] = (2**61).to_bytes(8, "little")
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"large\.gguf"):
            read_gguf(path)


def test_changed_bytes_are_read_or_refused_and_nothing_else(tmp_path: Path, whole: bytes) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "changed.gguf"
    refused = 0
    header = whole.index(b"blk.1.ffn_norm.weight") + 60
    for _ in range(80):
        data = bytearray(whole)
        for place in rng.integers(4, header, 3):
            data[place] = int(rng.integers(256))
        path.write_bytes(data)
        try:
            tensors = GGUFTensors(read_gguf(path))
            next(iter(tensors.values()))
        except ValueError:
            refused += 1
    assert refused > 0
