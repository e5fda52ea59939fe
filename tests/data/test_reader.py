"""Shards of other people: whatever lies in the bytes of a sample, it is read as written or is one named damaged sample."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import Item, Made, Plan
from unifashion_pl.data.reader import DamagedSample, ShardSource
from unifashion_pl.data.shards import tar_member, write_shards


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
