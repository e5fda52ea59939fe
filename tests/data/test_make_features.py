"""Making cached vision features: what is kept, made anew, refused."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from data.rawdata import features_of as made
from safetensors.torch import load_file

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.data.assemble import TripletAssembler, image_of
from unifashion_pl.data.make_features import write_features
from unifashion_pl.data.reader import DamagedSample, ShardSource
from unifashion_pl.data.stream import TrainLoader
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.files import WriteError

SIZE = 32


def test_features_are_what_the_tower_gives(repeated: Path, frozen: QFormerBackbone, tmp_path: Path) -> None:
    encoder = EncoderTransform(SIZE)
    for dtype, tolerance in (("fp32", 1e-5), ("bf16", 1e-2)):
        source = made(repeated, frozen, tmp_path / dtype, dtype=dtype, batch_size=7)
        for number in (0, 7, 23):
            raw = source.read(number)
            assert set(raw.features) == {"reference", "target"}
            for name, feature in raw.features.items():
                with torch.no_grad():
                    expected = frozen.vision(encoder(image_of(raw, name))[None])[0]
                assert feature.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
                torch.testing.assert_close(feature.float(), expected, rtol=tolerance, atol=tolerance)


def test_every_distinct_image_is_kept_once(repeated: Path, frozen: QFormerBackbone, tmp_path: Path) -> None:
    source = made(repeated, frozen, tmp_path)
    contents = [hashlib.sha256(raw.fields[f"{n}.jpg"]).digest() for raw in map(source.read, range(24)) for n in raw.features]
    assert sum(file.images for file in source.found.files) == len(set(contents)) == 41
    files = [load_file(tmp_path / file.name) for file in source.found.files]
    assert [len(file["features"]) for file in files] == [file.images for file in source.found.files]
    rows = torch.cat([file["rows"] for file in files]).flatten().tolist()
    same = dict(zip(contents, rows))
    assert [same[content] for content in contents] == rows


def test_a_second_run_keeps_what_is_there_and_makes_what_is_not(
    repeated: Path, frozen: QFormerBackbone, tmp_path: Path
) -> None:
    whole = made(repeated, frozen, tmp_path / "a").folder
    contents = {p.name: p.read_bytes() for p in whole.glob("*") if p.name != ".lock"}
    for batch_size, gone in ((64, [1, 3]), (64, [0]), (64, [0, 1, 2, 3, 4])):
        files = sorted(whole.glob("*.safetensors"))
        kept = {p: p.stat().st_mtime_ns for i, p in enumerate(files) if i not in gone}
        for i in gone:
            files[i].unlink()
        (whole / "index.json").unlink()
        (whole / "x.safetensors.123.part").write_bytes(b"half")
        write_features(repeated, frozen.vision, out=whole, batch_size=batch_size, progress=False)
        assert {p.name: p.read_bytes() for p in whole.glob("*") if p.name != ".lock"} == contents
        assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_evaluation_shards_and_full_disks_are_refused(
    pair_shards: Path, frozen: QFormerBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="pairs of the split validation.*evaluation reads pixels"):
        write_features(pair_shards / "pairs-validation", frozen.vision, out=tmp_path)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left on device.*free some space and run the same command again"):
        write_features(pair_shards / "pairs-train", frozen.vision, out=tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_damaged_samples_take_only_themselves_out_where_it_is_allowed(
    repeated: Path, frozen: QFormerBackbone, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(repeated, tmp_path / "shards"))
    index = ShardSource(shards).index.shards[1]
    with open(shards / index.name, "r+b") as file:
        file.seek(index.offsets[2] + 700)
        file.write(bytes(50))
    with pytest.raises(DamagedSample, match=rf"{index.keys[2]} .*CRC-32"):
        made(shards, frozen, tmp_path / "out")
    with pytest.warns(UserWarning, match=rf"damaged sample 1 of at most 1: {index.keys[2]} .*CRC-32"):
        source = made(shards, frozen, tmp_path / "out", max_bad=1)
    whole = made(repeated, frozen, tmp_path / "whole")
    for number, key in enumerate(source.keys):
        if key == index.keys[2]:
            with pytest.raises(DamagedSample, match=key):
                source.read(number)
        else:
            ours, expected = source.read(number).features, whole.read(number).features
            assert all(torch.equal(ours[name], expected[name]) for name in expected)
    encoder = EncoderTransform(SIZE)
    loader = TrainLoader(source, TripletAssembler(encoder), batch_size=8, max_bad=1)
    with pytest.warns(UserWarning, match="damaged sample 1 of at most 1"):
        assert len(list(loader)) == 3
    shutil.copy(repeated / index.name, shards / index.name)
    mended = made(shards, frozen, tmp_path / "out", max_bad=1)
    assert mended.read(7).features["reference"].equal(whole.read(7).features["reference"])
