"""Vectors as they are kept: what is lost, pooling against scipy's clustering, and files that are read back bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.cluster import hierarchy

from unifashion_pl.gallery import segments
from unifashion_pl.gallery.segments import arrays_of, coded, pooled, read, segment_from, write
from unifashion_pl.reading import FormatError


def tokens(n: int = 9, q: int = 12, e: int = 16, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((n, q, e)).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_codes_are_within_half_a_step_of_each_token_s_largest_number() -> None:
    values = tokens() * np.float32([[[1e-3]]])
    values[0, 0] = 0
    held = coded(values)
    step = np.abs(values).max(-1) / 127
    assert (np.abs(held.floats(slice(None)) - values).max(-1) <= step / 2 + 1e-9).all()
    assert held.codes.dtype == np.int8
    assert not held.codes[0, 0].any()


@pytest.mark.parametrize("number", [1, 4, 11])
def test_pooling_is_wards_clustering(number: int) -> None:
    values = tokens()
    values[3, 5] = values[3, 2]
    found = pooled(values, number)
    assert found.shape == (9, number, 16)
    for own, few in zip(values, found):
        label = hierarchy.fcluster(hierarchy.linkage(own.astype(np.float64), "ward"), number, "maxclust")
        means = np.stack([own[label == one].mean(0) for one in np.unique(label)])
        expected = means / np.linalg.norm(means, axis=1, keepdims=True)
        near = expected @ few.T
        assert near.max(0) == pytest.approx(1, abs=1e-5)
        assert sorted(near.argmax(0)) == list(range(number))
    assert pooled(values, 12) is values
    assert pooled(values[:0], 4).shape == (0, 4, 16)


@pytest.mark.parametrize(("storage", "coarse"), [("fp32", None), ("fp16", 3), ("int8", 2)])
def test_a_file_gives_back_what_was_written(tmp_path: Path, storage: str, coarse: int | None) -> None:
    given = {"reference": tokens(), "target": tokens(seed=1), "captions": tokens(4, 1)}
    made = segment_from(given, storage, None, coarse)
    name = write(tmp_path, made)
    found = read(tmp_path / name)
    assert found.file == name
    assert found.rows == 9
    for key, array in arrays_of(made).items():
        assert arrays_of(found)[key].dtype == array.dtype
        assert np.array_equal(arrays_of(found)[key], array)
    other = load_file(tmp_path / name)  # the format's own reader
    assert {key: array.tobytes() for key, array in other.items()} == {k: a.tobytes() for k, a in arrays_of(made).items()}
    assert write(tmp_path, made) == name
    assert ("reference.exact" in other) == (storage != "int8")


def test_a_set_that_equals_another_and_one_without_rows_take_no_space() -> None:
    made = segment_from({"reference": tokens(), "target": tokens(), "captions": tokens(0, 1)}, "fp16")
    assert set(made.sets) == {"reference"}


@pytest.mark.parametrize(
    "header", [b"", b"{}", b"[1]", b'{"reference.codes": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}']
)
def test_a_file_that_is_none_is_a_sentence(tmp_path: Path, header: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SMALL", -1)
    path = tmp_path / "vectors-1.safetensors"
    for content in (
        b"",
        b"\xff" * 40,
        len(header).to_bytes(8, "little") + header,
        (1 << 62).to_bytes(8, "little") + header,
        len(header).to_bytes(8, "little") + header.replace(b"F64", b"F32").replace(b"[1]", b"[1, -2]"),
        len(header).to_bytes(8, "little") + header.replace(b"F64", b"I8").replace(b"8]", b"800]"),
    ):
        path.write_bytes(content)
        if header == b"{}" and content.endswith(header) and content[0] == 2 and len(content) == 10:
            assert read(path).rows == 0
            continue
        with pytest.raises(FormatError, match="is damaged: it is no file of vectors"):
            read(path)
