"""``index.json`` of a folder of shards: what is in it, where every sample starts, and what was lost on the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from unifashion_pl.data.plan import compact_json
from unifashion_pl.files import replacing
from unifashion_pl.reading import FormatError, converted, digest, is_inside, read_json

FORMAT = 1
NAME = "index.json"


@dataclass(frozen=True)
class Shard:
    """A tar file: ``offsets`` are the starts of its samples and the end of the last, ``crc32`` is over each sample's byte range."""

    name: str
    bytes: int
    sha256: str
    samples: int
    offsets: list[int]
    crc32: list[int]
    keys: list[str]

    def faults(self) -> Iterator[str]:
        """What contradicts itself, by field."""
        if not is_inside(self.name) or "/" in self.name or "\\" in self.name or not self.name.endswith(".tar"):
            yield f"name is {self.name[:80]!r}, expected a file of its own folder called NAME.tar"
        counts = {"samples": self.samples, "keys": len(self.keys), "crc32": len(self.crc32), "offsets": len(self.offsets) - 1}
        if len(set(counts.values())) > 1:
            yield f"counts differ: {', '.join(f'{name} {count}' for name, count in counts.items())}"
        ends = [0, *self.offsets, self.bytes]
        if any(a > b for a, b in pairwise(ends)):
            yield f"offsets do not grow from 0 to the {self.bytes} bytes of the file"
        if any(not 0 <= crc < 1 << 32 for crc in self.crc32):
            yield "crc32: expected numbers of 32 bits"


@dataclass(frozen=True)
class ShardIndex:
    """Content of ``index.json``; no dates, hosts or absolute paths, so that equal data has equal indices.

    Attributes:
        dataset, split, kind, fields, optional: as in :class:`unifashion_pl.data.plan.Plan`.
        options, encoders: what shaped the bytes.
        source: raw file -> size and sha256.
        shards: in order.
        samples, expected: how many there are and how many were planned.
        missing: ``{id, role, reason, key, group}`` of every lost sample.
        duplicates: groups of ids with equal pixels.
        metrics: group -> ``{expected, usable}``.
        subsets: named lists of keys.
        notes: findings about the raw data.
    """

    dataset: str
    split: str
    kind: str
    fields: list[str]
    optional: list[str]
    options: dict[str, Any]
    encoders: dict[str, str]
    source: dict[str, dict[str, Any]]
    shards: list[Shard]
    samples: int
    expected: int
    missing: list[dict[str, str]]
    duplicates: list[list[str]]
    metrics: dict[str, dict[str, int]]
    subsets: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    format: int = FORMAT

    @property
    def hash(self) -> str:
        """SHA-256 over the shards' hashes: equal iff the data is."""
        return hashlib.sha256("\n".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    @property
    def name(self) -> str:
        """``dataset/split``, as batches carry it."""
        return f"{self.dataset}/{self.split}"

    def starts(self) -> list[int]:
        """Number of the first sample of every shard, and the total."""
        return [0, *accumulate(shard.samples for shard in self.shards)]

    def faults(self) -> Iterator[str]:
        """What contradicts itself, by field."""
        for number, shard in enumerate(self.shards):
            for fault in shard.faults():
                yield f"shards[{number}].{fault}"
        names, keys = [shard.name for shard in self.shards], [key for shard in self.shards for key in shard.keys]
        if len(set(names)) < len(names) or len(set(keys)) < len(keys):
            yield "shards: names and keys must be unique"
        if self.samples != len(keys) or not self.samples <= self.expected:
            yield f"samples is {self.samples}, but its shards hold {len(keys)} of {self.expected} that were expected"
        for name, file in self.source.items():
            if not is_inside(name) or not isinstance(file.get("bytes"), int) or not isinstance(file.get("sha256"), str):
                yield f"source: {name[:80]!r} is not a path below the raw data with bytes and sha256"
        for group, counts in self.metrics.items():
            if not 0 <= counts.get("usable", -1) <= counts.get("expected", -1):
                yield f"metrics: {group[:80]!r} has {counts}, expected usable and expected"

    def save(self, folder: Path) -> Path:
        """Write ``index.json`` atomically and return its path."""
        path = folder / NAME
        with replacing(path) as file:
            file.write(compact_json({**asdict(self), "hash": self.hash}) + b"\n")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> ShardIndex:
        """Read the index of a folder (or the file itself).

        Raises:
            FileNotFoundError: no index, with the command that makes one.
            ValueError: not an index, another format, or shards and hash disagree.
        """
        path = Path(folder)
        path = path / NAME if path.suffix != ".json" else path
        if not path.is_file():
            raise FileNotFoundError(f"no {NAME} in {path.parent}: {_what_is_there(path.parent)}")
        content = read_json(path, dict[str, Any], "a shard index")
        if content.get("format") != FORMAT:
            raise FormatError(
                f"{path} has format {content.get('format')!r}, this version reads {FORMAT}; build the shards again"
            )
        index = converted(content, cls, f"{path}", "a shard index")
        if fault := next(index.faults(), None):
            raise FormatError(f"{path} is not a shard index: {fault}; build the shards again")
        stored = content.get("hash")
        if index.hash != stored:
            raise ValueError(
                f"{path} was changed: its shards hash to {index.hash[:12]}, it says {str(stored)[:12]}; build it again"
            )
        return index


def _what_is_there(folder: Path) -> str:
    if not folder.exists():
        return "the folder does not exist. Shards are made by `unifashion data shards DATASET --root RAW --out SHARDS`"
    below = sorted(path.parent.name for path in folder.glob(f"*/{NAME}"))
    if below:
        return f"but its folders {', '.join(below)} have one: name one of them"
    tars = len(list(folder.glob("*.tar")))
    if tars:
        return (
            f"{tars} tar files are there without one. If they are of `unifashion data shards`, run the same command again: the index comes "
            "last, and it goes on where it stopped. Tars of others are read by TableDataModule (docs/extending.md)"
        )
    return "the folder holds no shards. They are made by `unifashion data shards DATASET --root RAW --out SHARDS`"


def preflight(folder: Path, index: ShardIndex) -> None:
    """Every shard is there with its size.

    Raises:
        FileNotFoundError: shards that are absent or of another size, by name.
    """
    faults = {shard.name: size_fault(folder / shard.name, shard.bytes) for shard in index.shards}
    wrong = [f"{name} {fault}" for name, fault in faults.items() if fault]
    if wrong:
        more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
        raise FileNotFoundError(
            f"{folder}: {'; '.join(wrong[:5])}{more}. "
            "Copy them again, or run the same `unifashion data shards` again: it rewrites only those"
        )


def size_fault(path: Path, expected: int) -> str:
    """What is wrong with a file that has to have so many bytes, "" if nothing is."""
    size = path.stat().st_size if path.is_file() else None
    return "" if size == expected else "is missing" if size is None else f"has {size:,} bytes instead of {expected:,}"


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as an index has them of its sources."""
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def changed_sources(folder: Path, root: Path) -> list[str]:
    """Names of annotation files and containers below ``root`` that are not those that a folder of shards was made from.

    A file of another size is another one; one of the same size is hashed if it is newer than the index, which then counts as written
    now, so that large files are not hashed at every start. Files that are not there say nothing: shards may outlive raw data.
    """
    written = (folder / NAME).stat().st_mtime_ns
    changed, hashed = [], False
    for name, known in ShardIndex.load(folder).source.items():
        # copies may unpack into a folder of their own
        places = [root / name, *(folder / name for folder in (sorted(root.iterdir()) if root.is_dir() else ()))]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            continue
        if path.stat().st_size == known["bytes"]:
            if path.stat().st_mtime_ns <= written:
                continue
            hashed = True
            if fingerprint(path) == known:
                continue
        changed.append(name)
    if hashed and not changed:
        with suppress(OSError):
            os.utime(folder / NAME)
    return changed
