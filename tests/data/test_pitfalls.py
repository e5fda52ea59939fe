"""Where a stock tar reader goes wrong without a word: each pitfall shown on webdataset, then on this library's reader."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds

from unifashion_pl.data.assemble import PairAssembler, QueryAssembler
from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import Item, Plan
from unifashion_pl.data.reader import DamagedSample, ShardSource
from unifashion_pl.data.shards import tar_member
from unifashion_pl.data.stream import EvalLoader, Rank, TrainLoader, Workers, training_order
from unifashion_pl.data.transforms import EncoderTransform

PAIRS = PairAssembler(EncoderTransform(8))


@pytest.fixture
def shards(pair_shards: Path, tmp_path: Path) -> Path:
    """A copy of 36 pairs in shards of 5, to be spoilt."""
    return Path(shutil.copytree(pair_shards / "pairs-train", tmp_path / "pairs-train"))


def first(shards: Path) -> Path:
    return sorted(shards.glob("*.tar"))[0]


def stock(path: Path) -> list[dict[str, Any]]:
    """What webdataset makes of a tar file."""
    return list(wds.WebDataset([str(path)], shardshuffle=False))


def spoilt(shards: Path, start: int, data: bytes) -> None:
    """Overwrite bytes of the first shard; its size stays."""
    with open(first(shards), "r+b") as file:
        file.seek(start)
        file.write(data)


def read_all(source: ShardSource) -> tuple[list[str], list[str]]:
    """Keys that can be read, and messages about those that cannot."""
    good, bad = [], []
    for number in range(len(source.keys)):
        try:
            good.append(source.read(number).key)
        except DamagedSample as error:
            bad.append(str(error))
    return good, bad


def test_a_tar_cut_at_a_member_boundary_or_in_a_header(shards: Path) -> None:
    """Stock: the rest of the shard vanishes. Here: the size gives it away before training, and each lost sample is named."""
    source = ShardSource(shards)
    offsets = source.index.shards[0].offsets
    for cut in (offsets[2], offsets[2] + 100):
        os.truncate(first(shards), cut)
        assert len(stock(first(shards))) == 2
        good, bad = read_all(source)
        assert good == [*source.keys[:2], *source.keys[5:]]
        assert [message.split(" ")[0] for message in bad] == source.keys[2:5]
        assert all("the file ends after" in message for message in bad)
        with pytest.raises(FileNotFoundError, match=rf"00000\.tar has {cut:,} bytes instead of"):
            ShardSource(shards)


def test_a_damaged_header(shards: Path) -> None:
    """Stock: stops there without an error. Here: one sample is named, the others are read."""
    source = ShardSource(shards)
    spoilt(shards, source.index.shards[0].offsets[2] + 100, b"\xff" * 8)
    assert len(stock(first(shards))) == 2
    good, bad = read_all(source)
    assert (len(good), len(bad)) == (35, 1)
    assert bad[0].startswith(source.keys[2])


def test_a_flipped_byte(shards: Path) -> None:
    """Stock: unnoticed. Here: named."""
    source = ShardSource(shards)
    spoilt(shards, source.index.shards[0].offsets[0] + 700, b"\x00\x01")
    assert len(stock(first(shards))) == 5
    good, bad = read_all(source)
    assert len(good) == 35
    assert "CRC-32" in bad[0]


def test_interleaved_and_duplicate_members(shards: Path) -> None:
    """Stock: four half samples for two, or an exception in the midst. Here: bytes that are not the written ones are refused."""
    source = ShardSource(shards)
    a, b = (source.read(number).fields for number in (0, 1))
    names = [
        f"{source.keys[0]}.image.jpg",
        f"{source.keys[1]}.image.jpg",
        f"{source.keys[0]}.meta.json",
        f"{source.keys[1]}.meta.json",
    ]
    data = [a["image.jpg"], b["image.jpg"], a["meta.json"], b["meta.json"]]
    mixed = b"".join(tar_member(*member) for member in zip(names, data))
    assert len(mixed) == source.index.shards[0].offsets[2]
    spoilt(shards, 0, mixed)
    assert Counter(len([k for k in s if not k.startswith("__")]) for s in stock(first(shards)))[1] == 4
    assert len(read_all(source)[1]) == 2

    path = shards / "double.tar"
    path.write_bytes(tar_member("a.image.jpg", b"1") + tar_member("a.image.jpg", b"2") + bytes(1024))
    with pytest.raises(ValueError, match="duplicate"):
        stock(path)


def test_names_that_change_on_the_way(shards: Path, pair_shards: Path) -> None:
    """Stock: a dot in a key moves the border between key and field, files without extension or with a leading dot vanish. Here: refused."""
    path = shards / "odd.tar"
    path.write_bytes(b"".join(tar_member(n, b"x") for n in ("B00.A.jpg", "noextension", ".hidden.jpg")) + bytes(1024))
    assert next((s["__key__"], sorted(k for k in s if not k.startswith("__"))) for s in stock(path)) == ("B00", ["a.jpg"])
    assert len(stock(path)) < 3
    for key in ("B00.A", "", ".hidden", "a/b", "ü"):
        with pytest.raises(ValueError, match="characters other than"):
            Plan("d", "train", "pairs", [Item(key, "", ())], None, ("image",), shards)  # type: ignore[arg-type]


def test_a_missing_shard_and_a_bad_image_do_not_vanish(shards: Path) -> None:
    """Stock with ``warn_and_continue``: gone with a warning. Here: training stops or, if allowed, counts."""
    bad = [str(first(shards)), str(shards / "gone.tar")]
    with pytest.warns(UserWarning, match="No such file"):
        assert len(list(wds.WebDataset(bad, shardshuffle=False, handler=wds.warn_and_continue))) == 5
    source = ShardSource(shards)
    first(shards).unlink()
    with pytest.raises(FileNotFoundError, match=r"00000\.tar is missing"):
        ShardSource(shards)
    with (
        pytest.raises(RuntimeError, match="allowed are max_bad=2.*No such file"),
        pytest.warns(UserWarning, match="damaged sample 2"),
    ):
        list(TrainLoader(source, PAIRS, batch_size=4, max_bad=2))
    loader = TrainLoader(source, PAIRS, batch_size=9, max_bad=5)
    with pytest.warns(UserWarning, match="damaged sample 5 of at most 5"):
        assert [len(batch) for batch in loader] == [9] * 4
    assert sorted(loader.bad) == sorted(source.keys[:5])


def test_uneven_shards_and_more_workers_than_shards(pair_shards: Path) -> None:
    """Stock: ranks get whole shards, so unequal numbers, and workers without a shard raise. Here: equally many batches everywhere."""
    source = ShardSource(pair_shards / "pairs-train")
    assert [shard.samples for shard in source.index.shards] == [5] * 7 + [1]
    for world in (2, 3, 4):
        loaders = [TrainLoader(source, PAIRS, batch_size=2, rank=Rank(rank, world)) for rank in range(world)]
        assert {len(list(loader)) for loader in loaders} == {36 // (2 * world)}
    assert len(list(TrainLoader(source, PAIRS, batch_size=6, workers=Workers(9)))) == 6


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_epoch_has_one_length(pair_shards: Path, workers: int) -> None:
    """Stock: ``with_epoch(n)`` on the dataset counts per worker. Here: samples // (ranks × batch_size), whoever reads."""
    loader = TrainLoader(ShardSource(pair_shards / "pairs-train"), PAIRS, batch_size=5, workers=Workers(workers))
    assert [len(list(loader)) for _ in range(3)] == [len(loader)] * 3 == [7] * 3


def test_an_order_does_not_hang_on_the_process(pair_shards: Path) -> None:
    """Python salts ``hash(str)`` per process, and stock shuffling without ``seed=`` draws anew. Here: (seed, epoch) say everything."""
    code = "from unifashion_pl.data.stream import training_order; print(training_order([5] * 7 + [1], 3, 2).tolist())"
    env = {**os.environ, "PYTHONHASHSEED": "123"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert out.strip() == str(training_order([5] * 7 + [1], 3, 2).tolist())


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 3), (2, 2), (3, 0), (3, 2), (4, 0), (4, 3)])
def test_uneven_evaluation_shards_are_read_exactly_once(pair_shards: Path, world: int, workers: int) -> None:
    """Shards of 5, 5, 5, 5, 5, 5, 5 and 1 over ranks and workers that divide neither; no padding, at most one apart."""
    source = ShardSource(pair_shards / "pairs-validation")
    ranks = [EvalLoader(source, PAIRS, batch_size=4, rank=Rank(r, world), workers=Workers(workers)) for r in range(world)]
    seen = [[key for batch in loader for key in batch.keys] for loader in ranks]
    assert Counter(key for part in seen for key in part) == Counter(source.keys)
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


def test_a_foreign_tar_needs_an_index(tmp_path: Path, pair_shards: Path) -> None:
    """Tar files of other origin are not read half, but refused with the way to what reads them."""
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    with pytest.raises(
        FileNotFoundError, match="1 tar files are there without one.*Tars of others are read by TableDataModule"
    ):
        ShardIndex.load(tmp_path)
    shutil.copy(tmp_path / "some.tar", tmp_path / "more.tar")
    source = ShardSource(pair_shards / "pairs-validation")
    assert QueryAssembler(EncoderTransform(8)).needs - set(source.fields) == {"reference"}
    with pytest.raises(ValueError, match="needs reference: is this the folder of another kind of shards"):
        EvalLoader(source, QueryAssembler(EncoderTransform(8)), batch_size=2)
