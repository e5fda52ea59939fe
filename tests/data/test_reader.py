"""Shards of other people: whatever lies in the bytes of a sample, it is read as written or is one named damaged sample."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import Item, Made, Plan
from unifashion_pl.data.reader import DamagedSample, ShardSource
from unifashion_pl.data.samples import PairBatch
from unifashion_pl.data.shards import tar_member, write_shards
from unifashion_pl.data.stream import TrainLoader
from unifashion_pl.data.transforms import EncoderTransform, PixelTransform


class Two:
    """Two samples of two fields."""

    def make(self, items: list[Item]) -> list[tuple[Item, Made]]:
        return [(item, Made({"image.png": b"x" * 700, "meta.json": b"{}"}, item.key)) for item in items]

    def inputs(self, item: Item) -> list[object]:
        return []


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    plan = Plan("d", "train", "pairs", [Item("a", "", ()), Item("b", "", ())], Two(), ("image", "meta"), tmp_path)  # type: ignore[arg-type]
    return write_shards(plan, tmp_path, progress=False).parent


def made(kind: str, **fields: object) -> bytes:
    """A member as another tar writer makes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.image.png")
        for name, value in {"type": getattr(tarfile, kind), **fields}.items():
            setattr(info, name, value)
        tar.addfile(info, io.BytesIO(b"x" * info.size))
    return buffer.getvalue()[: buffer.tell()]


def placed(shards: Path, data: bytes) -> None:
    """Put other bytes in the place of the first sample, and let the index agree with them."""
    index = ShardIndex.load(shards)
    start, end = index.shards[0].offsets[:2]
    data = data[: end - start].ljust(end - start, b"\0")
    with open(shards / index.shards[0].name, "r+b") as file:
        file.seek(start)
        file.write(data)
    content = json.loads((shards / "index.json").read_text())
    content["shards"][0]["crc32"][0] = zlib.crc32(data)
    (shards / "index.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (lambda: made("SYMTYPE", linkname="/etc/passwd"), "type b.2"),
        (lambda: made("LNKTYPE", linkname="/etc/passwd"), "type b.1"),
        (lambda: made("CHRTYPE"), "type b.3"),
        (lambda: made("REGTYPE", pax_headers={"GNU.sparse.realsize": "99999999999999", "GNU.sparse.major": "1"}), "type b.x"),
        (lambda: made("GNUTYPE_SPARSE"), "type b.S"),
        (lambda: tar_member("../a.image.png", b"x"), "expected is a plain file a.FIELD"),
        (lambda: tar_member("/a.image.png", b"x"), "expected is a plain file a.FIELD"),
        (lambda: tar_member("b.image.png", b"x"), "holds 'b.image.png'"),
        (lambda: tar_member("a.image.png", b"x") * 2, "once"),
        (lambda: tar_member("a.image.png", bytes(10_000))[:1024], "declares 10,000 bytes"),
        (lambda: b"\xff" * 512, "no tar header"),
        (lambda: b"", "no tar header"),
    ],
)
def test_anything_but_plain_files_of_the_sample_is_refused(shards: Path, member: Callable[[], bytes], message: str) -> None:
    placed(shards, member())
    source = ShardSource(shards)
    with pytest.raises(DamagedSample, match=message) as caught:
        source.read(0)
    assert caught.value.name.startswith("a (sample 0 of")
    assert source.read(1).fields == {"image.png": b"x" * 700, "meta.json": b"{}"}


PAIRS = PairAssembler(EncoderTransform(16), PixelTransform((16, 12)))


def train(folder: Path, batch_size: int = 5, **options: Any) -> TrainLoader[PairBatch]:
    return TrainLoader(ShardSource(folder / "pairs-train"), PAIRS, batch_size=batch_size, **options)


@pytest.fixture
def damaged(pair_shards: Path, tmp_path: Path) -> Path:
    """Two samples with a flipped byte."""
    shutil.copytree(pair_shards, tmp_path / "damaged")
    source = ShardSource(tmp_path / "damaged" / "pairs-train")
    for number in (2, 9):
        shard, i = divmod(number, 5)
        with open(source.folder / source.index.shards[shard].name, "r+b") as file:
            file.seek(source.index.shards[shard].offsets[i] + 700)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))
    return tmp_path / "damaged"


def test_a_flipped_byte_is_named(damaged: Path) -> None:
    source = ShardSource(damaged / "pairs-train")
    with pytest.raises(DamagedSample, match=rf"{source.keys[2]} \(sample 2 of .*00000\.tar.*CRC-32"):
        source.read(2)
    source.read(3)


def test_a_shard_cut_after_the_start_is_named(pair_shards: Path, tmp_path: Path) -> None:
    shutil.copytree(pair_shards / "pairs-train", tmp_path / "pairs-train")
    source = ShardSource(tmp_path / "pairs-train")
    shard = source.index.shards[0]
    with open(source.folder / shard.name, "r+b") as file:
        file.truncate(shard.offsets[1] + 100)
    with pytest.raises(DamagedSample, match="the file ends after"):
        source.read(1)
