"""x"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unifashion_pl.datamodules import fashiongen

from unifashion_pl.data.index import ShardIndex, preflight
from unifashion_pl.data.plan import Plan
from unifashion_pl.data.reader import _fields
from unifashion_pl.data.shards import tar_member, write_shards

Content = dict[str, Any]


SHARD = {
    "name": "d-0.tar",
    "bytes": 4096,
    "sha256": "0" * 64,
    "samples": 2,
    "offsets": [0, 1024, 2048],
    "crc32": [1, 2],
    "keys": ["a", "b"],
}


INDEX = {
    "dataset": "d", "split": "train", "kind": "pairs", "fields": ["image"], "optional": [], "options": {}, "encoders": {},
    "source": {"a.csv": {"bytes": 1, "sha256": "0"}}, "shards": [SHARD], "samples": 2, "expected": 3, "missing": [], "duplicates": [],
    "metrics": {"all": {"expected": 3, "usable": 2}}, "format": 1,
}  # fmt: skip


def load(folder: Path, content: Any) -> ShardIndex:
    """The index with the hash that fits its shards, so that only the fields can be wrong."""
    if isinstance(content, dict) and isinstance(content.get("shards"), list):
        hashes = "\n".join(str(shard.get("sha256")) for shard in content["shards"])
        content = {**content, "hash": hashlib.sha256(hashes.encode()).hexdigest()}
    (folder / "index.json").write_text(json.dumps(content), "utf-8-sig")
    return ShardIndex.load(folder)


def test_a_sound_index_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, INDEX).shards[0].keys == ["a", "b"]


def shard(**change: Any) -> Callable[[Content], Content]:
    return lambda index: {**index, "shards": [{**SHARD, **change}]}


def field(**change: Any) -> Callable[[Content], Content]:
    return lambda index: {**index, **change}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shard(name="../../x.tar"), r"shards\[0\].name is '../../x.tar', expected a file of its own folder"),
        (shard(name="/x.tar"), r"shards\[0\].name is '/x.tar'"),
        (shard(name="a\\x.tar"), r"shards\[0\].name"),
        (shard(name="x"), r"shards\[0\].name is 'x'"),
        (shard(offsets=[0, 2048, 1024]), r"shards\[0\].offsets do not grow"),
        (shard(offsets=[-1, 1024, 2048]), r"shards\[0\].offsets do not grow"),
        (shard(offsets=[0, 1024, 9999]), r"shards\[0\].offsets do not grow from 0 to the 4096 bytes"),
        (shard(offsets=[0, 1024]), r"shards\[0\].counts differ: samples 2, keys 2, crc32 2, offsets 1"),
        (shard(samples=-2), r"shards\[0\].counts differ"),
        (shard(keys=["a", 5]), r"Expected `str`, got `int` - at `\$.shards\[0\].keys\[1\]`"),
        (shard(crc32=[1, 2**40]), r"shards\[0\].crc32"),
        (shard(keys=["a", "a"]), "names and keys must be unique"),
        (field(shards=[SHARD, SHARD], samples=4, expected=4), "names and keys must be unique"),
        (field(samples=3), "samples is 3, but its shards hold 2"),
        (field(expected=1), "samples is 2, but its shards hold 2 of 1"),
        (field(source={"../a": {"bytes": 1, "sha256": "0"}}), "source: '../a' is not a path below"),
        (field(source={"a": {"bytes": None, "sha256": "0"}}), "source: 'a' is not"),
        (field(metrics={"all": {"usable": 2}}), "metrics: 'all' has"),
        (field(metrics={"all": {"usable": 4, "expected": 3}}), "metrics: 'all' has"),
        (field(missing=[{"id": 5}]), r"is not a shard index: Expected `str`, got `int` - at `\$.missing\[0\]"),
        (lambda index: {k: v for k, v in index.items() if k != "kind"}, "missing required field `kind`"),
        (lambda index: [index], "Expected `object`, got `array`"),
        (lambda index: None, "Expected `object`, got `null`"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused_by_field(
    tmp_path: Path, change: Callable[[Content], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, change(dict(INDEX)))
    assert str(tmp_path / "index.json") in str(caught.value)


def test_members_that_no_shard_has_are_damage() -> None:
    plain = tar_member("k.meta.json", b"{}")
    assert _fields(plain, "k") == {"meta.json": b"{}"}
    for kind in b"1235SLxg":  # links, devices, folders, sparse and extended headers
        other = bytearray(plain)
        other[156] = kind
        other[148:156] = b"%06o\0 " % (sum(other[:148]) + sum(other[156:512]) + 8 * 32)
        with pytest.raises(ValueError, match="expected is a plain file"):
            _fields(bytes(other), "k")
    with pytest.raises(ValueError, match="declares 2 bytes, the sample has 512"):
        _fields(plain[:512], "k")
    with pytest.raises(ValueError, match="byte 0: no tar header"):
        _fields(bytes(1024), "k")


def train_plan(root: Path) -> Plan:
    return next(p for p in fashiongen.plans(root, shard_size=5) if p.split == "train")


def test_index_errors_say_what_is_there(pair_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ShardIndex.load(tmp_path / "no")
    with pytest.raises(FileNotFoundError, match="pairs-train, pairs-validation have one"):
        ShardIndex.load(pair_shards)
    content = json.loads((pair_shards / "pairs-train" / "index.json").read_text())
    for change, message in (
        ({"format": 99}, "format 99"),
        ({"hash": "0" * 64}, "was changed"),
        ({"shards": 3}, "not a shard index"),
    ):
        (tmp_path / "index.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=message):
            ShardIndex.load(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match="not a shard index"):
        ShardIndex.load(tmp_path)


def test_preflight_names_missing_and_cut_shards(fashiongen_root: Path, tmp_path: Path) -> None:
    folder = write_shards(train_plan(fashiongen_root), tmp_path, progress=False).parent
    tars = sorted(folder.glob("*.tar"))
    tars[0].unlink()
    os.truncate(tars[1], 1024)
    with pytest.raises(FileNotFoundError, match=r"00000\.tar is missing; .*00001\.tar has 1,024 bytes instead of"):
        preflight(folder, ShardIndex.load(folder))
