"""Making cached vision features: what is kept, made anew, refused."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from data.rawdata import features_of as made
from data.rawdata import write_vitonhd
from PIL import ImageOps
from safetensors.torch import load_file
from unifashion_pl.datamodules import VitonHDDataModule

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.data.assemble import TripletAssembler, image_of
from unifashion_pl.data.features import MIRRORED_FIELDS
from unifashion_pl.data.make_features import shard_folders, write_features
from unifashion_pl.data.meta import QueryMeta, meta_of
from unifashion_pl.data.reader import MIRRORED, DamagedSample, ShardSource, mirrored
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


def test_galleries_and_queries_have_features_and_an_image_that_lies_in_another_folder_is_copied(
    triplet_shards: Path, frozen: QFormerBackbone, tmp_path: Path
) -> None:
    """Every reference stands in the gallery: of the 15 queries nothing passes the tower but the blank picture that gives the shape."""
    folders = [folder for folder in shard_folders(triplet_shards) if not folder.name.startswith("triplets")]
    assert [folder.name for folder in folders] == ["gallery-val", "queries-val"]
    shelves = made(folders[0], frozen, tmp_path / "gallery")
    passed, forward = [], frozen.vision.forward
    frozen.vision.forward = lambda pictures: passed.append(len(pictures)) or forward(pictures)  # type: ignore[method-assign]
    questions = made(folders[1], frozen, tmp_path / "queries", known=[tmp_path / "gallery"])
    assert passed == [1]
    alone = made(folders[1], frozen, tmp_path / "alone")
    assert sum(passed) == 2 + sum(file.images for file in alone.found.files) == 2 + 15
    assert questions.planned == {"dress": 5, "shirt": 5, "toptee": 5}
    kept = {shelves.keys[n].partition("-")[2]: shelves.read(n).features["image"] for n in range(len(shelves.keys))}
    for number in range(15):
        raw = questions.read(number)
        assert torch.equal(raw.features["reference"], kept[meta_of(raw, QueryMeta)["reference"]])
    other = made(folders[1], frozen, tmp_path / "exact", dtype="fp32", known=[tmp_path / "gallery"])  # of another identity
    assert sum(passed) == 17 + 1 + 15
    assert other.found.identity.dtype == "fp32"


def test_persons_that_are_evaluated_and_full_disks_are_refused(
    pair_shards: Path,
    frozen: QFormerBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In their evaluation sketches pass the tower too, as they are seen at generation size."""
    data = VitonHDDataModule(write_vitonhd(tmp_path / "raw"), tmp_path / "shards", image_size=SIZE, pixel_size=(32, 24))
    data.prepare_data()
    persons = [data.shards / name for name in data.folders() if "test" in name]  # type: ignore[operator]
    with pytest.raises(ValueError, match="holds tryon of the split test.*features are made for training shards of"):
        write_features(persons[0], frozen.vision, out=tmp_path / "out")
    assert [folder.name for folder in shard_folders(tmp_path / "shards")] == [
        name for name in data.folders() if "train" in name
    ]
    assert f"{persons[0]}: vitonhd/test" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="no shards in .* whose features are read"):
        shard_folders(persons[0])
    tmp_path = tmp_path / "full"
    tmp_path.mkdir()

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


def test_of_training_pairs_mirrored_pictures_are_kept_too(pair_shards: Path, frozen: QFormerBackbone, tmp_path: Path) -> None:
    """They are what the tower gives of the picture mirrored; a run without them is made anew, and validation has none."""
    encoder = EncoderTransform(SIZE)
    made(pair_shards / "pairs-train", frozen, tmp_path / "train")
    source = made(pair_shards / "pairs-train", frozen, tmp_path / "train", fields=MIRRORED_FIELDS, dtype="fp32")
    for number in (0, 35):
        raw = source.read(number)
        with torch.no_grad():
            expected = frozen.vision(encoder(ImageOps.mirror(image_of(raw, "image")))[None])[0]
        torch.testing.assert_close(raw.features[f"image{MIRRORED}"], expected, rtol=1e-5, atol=1e-5)
        assert mirrored(raw, "image").features["image"] is raw.features[f"image{MIRRORED}"]
    assert made(pair_shards / "pairs-validation", frozen, tmp_path / "val", fields=MIRRORED_FIELDS).found.fields == ["image"]


def test_features_without_mirrored_ones_are_not_taken_for_those_with(
    pair_shards: Path, frozen: QFormerBackbone, tmp_path: Path
) -> None:
    made(pair_shards / "pairs-train", frozen, tmp_path)
    with_both = made(pair_shards / "pairs-train", frozen, tmp_path, fields=MIRRORED_FIELDS)
    assert set(with_both.read(3).features) == {"image", f"image{MIRRORED}"}
    plain = made(pair_shards / "pairs-train", frozen, tmp_path)
    with pytest.raises(DamagedSample, match="none of it mirrored"):
        mirrored(plain.read(3), "image")
