"""Random access to samples: by seeking into shards, or straight from the raw files of a plan."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from abc import abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from torch import Tensor

from unifashion_pl.data.index import ShardIndex, preflight
from unifashion_pl.data.plan import BadSample, Plan, compact_json
from unifashion_pl.data.shards import FIELD, tar_member

#: Behind the name of an image field: what is kept of the same picture, left and right changed.
MIRRORED = "/mirrored"
OPEN_FILES = 64
#: A header as :func:`~unifashion_pl.data.shards.tar_member` writes it; others differ in name, size and check sum only.
HEADER = tar_member("x", b"")


@dataclass(frozen=True)
class RawSample:
    """A sample's key and its fields' bytes, e.g. ``image.jpg`` and ``meta.json``.

    ``features`` are outputs of a frozen vision tower that were made before, (P, W) by image field, e.g. ``image``, and posteriors of an autoencoder, e.g. ``latents/image``.
    """

    key: str
    fields: dict[str, bytes]
    features: Mapping[str, Tensor] = field(default_factory=dict)


class DamagedSample(RuntimeError):
    """A sample that cannot be read; the message names it and says what is wrong.

    Attributes:
        name: key and place.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type[DamagedSample], tuple[str, str]]:
        return type(self), (self.name, self.reason)


def mirrored(raw: RawSample, name: str) -> RawSample:
    """The same sample with what is kept of the mirrored picture in the place of what is kept of an image field, if anything is.

    Raises:
        DamagedSample: features are kept, but none of the mirrored picture.
    """
    if name not in raw.features:
        return raw
    if name + MIRRORED not in raw.features:
        raise DamagedSample(raw.key, f"has features of {name}, but none of it mirrored")
    return replace(raw, features={**raw.features, name: raw.features[name + MIRRORED]})


class SampleSource:
    """Samples of a split by number; picklable, and usable in several processes at once.

    Attributes:
        dataset: ``dataset/split``.
        split, kind: as in the plan.
        fields: fields that every sample has.
        keys: of all samples, in order.
        blocks: how many samples lie together (per shard), for an order that reads neighbouring files.
        hash: equal iff the data is.
        subsets: named lists of keys.
        planned: group -> samples of the whole split, as its shards were planned; {} where nothing says it.
        features: hash of the vision features that samples carry instead of pixels for the tower, "" = none.
        latents: the same of the posteriors that they carry instead of pixels to be painted.
    """

    dataset: str
    split: str
    kind: str
    fields: Sequence[str]
    keys: Sequence[str]
    blocks: Sequence[int]
    hash: str
    subsets: Mapping[str, Sequence[str]]
    planned: Mapping[str, int] = MappingProxyType({})
    features: str = ""
    latents: str = ""

    @abstractmethod
    def read(self, number: int) -> RawSample:
        """One sample.

        Raises:
            DamagedSample: it cannot be read.
        """


class ShardSource(SampleSource):
    """Samples of a folder of shards, read by seeking.

    The byte range of a sample is compared with the index by its CRC-32 first, because a tar reader takes flipped bytes for content and
    stops silently at a damaged header. Then only what :func:`~unifashion_pl.data.shards.tar_member` writes is accepted: plain files
    named ``KEY.field``, one after the other. Links, sparse files, extended headers and other names are refused.

    Args:
        folder: with ``index.json``.

    Raises:
        FileNotFoundError, ValueError: as :meth:`ShardIndex.load` and :func:`preflight`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = ShardIndex.load(self.folder)
        preflight(self.folder, index)
        self.index = index
        self.dataset, self.split, self.kind, self.hash = index.name, index.split, index.kind, index.hash
        self.fields, self.subsets = index.fields, index.subsets
        self.planned = {group: counts["expected"] for group, counts in index.metrics.items()}
        self.keys = [key for shard in index.shards for key in shard.keys]
        self.blocks = [shard.samples for shard in index.shards]
        self._starts = index.starts()
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": OrderedDict(), "_pid": -1}

    def read(self, number: int) -> RawSample:
        place = bisect_right(self._starts, number) - 1
        shard, i = self.index.shards[place], number - self._starts[place]
        start, end = shard.offsets[i], shard.offsets[i + 1]
        try:
            file = self._open(place)
            file.seek(start)
            data = file.read(end - start)
            if len(data) < end - start:
                raise _Damage(f"the file ends after {start + len(data)} bytes")
            if zlib.crc32(data) != shard.crc32[i]:
                raise _Damage("its bytes changed since the shard was written (CRC-32 differs)")
            return RawSample(shard.keys[i], _fields(data, shard.keys[i]))
        except (OSError, ValueError, OverflowError, MemoryError) as error:
            name = f"{shard.keys[i]} (sample {i} of {self.folder / shard.name}, bytes {start}-{end})"
            raise DamagedSample(name, str(error) or type(error).__name__) from error

    def _open(self, place: int) -> BinaryIO:
        if self._pid != os.getpid():
            # a forked worker shares file offsets with its parent
            self._files, self._pid = OrderedDict(), os.getpid()
        if place in self._files:
            self._files.move_to_end(place)
            return self._files[place]
        if len(self._files) >= OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        self._files[place] = open(self.folder / self.index.shards[place].name, "rb")  # noqa: SIM115
        return self._files[place]


class _Damage(ValueError):
    """What is wrong with a sample's bytes."""


def _fields(data: bytes, key: str) -> dict[str, bytes]:
    """Content of the members of a sample by field.

    Raises:
        _Damage: something else than plain files ``key.field``, or sizes beyond the sample's own.
    """
    fields: dict[str, bytes] = {}
    place = 0
    while place < len(data):
        try:
            member, size, kind = _header(data[place : place + tarfile.BLOCKSIZE])
        except (tarfile.HeaderError, ValueError) as error:
            raise _Damage(f"byte {place}: no tar header ({error})") from error
        owner, _, field = member.partition(".")
        end = place + tarfile.BLOCKSIZE + size
        if kind != tarfile.REGTYPE or owner != key or not FIELD.fullmatch(field) or field in fields:
            raise _Damage(f"holds {member[:80]!r} (type {kind!r}), expected is a plain file {key}.FIELD, once")
        if not 0 <= size <= len(data) - place - tarfile.BLOCKSIZE:
            raise _Damage(f"{member} declares {size:,} bytes, the sample has {len(data):,}")
        fields[field] = data[place + tarfile.BLOCKSIZE : end]
        place = end + -size % tarfile.BLOCKSIZE
    if not fields:
        raise _Damage("has no content")
    return fields


def _header(block: bytes) -> tuple[str, int, bytes]:
    """A member's name, size and type. Of headers of our own writing only name and size are looked at, in a tenth of tarfile's time.

    Raises:
        tarfile.HeaderError, ValueError: it is none.
    """
    name, size = block[:100].rstrip(b"\0"), block[124:135]
    usual = block[100:124] == HEADER[100:124] and block[135:148] == HEADER[135:148] and block[154:] == HEADER[154:]
    summed = b"%06o" % (sum(block) - sum(block[148:154]) + 7 * ord(" "))  # the sum counts its own eight places as blanks
    if usual and b"\0" not in name and size.isdigit() and summed == block[148:154]:
        return name.decode(), int(size, 8), tarfile.REGTYPE
    member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    return member.name, member.size, member.type


class PlanSource(SampleSource):
    """Samples straight from the raw files, for catalogues too small to be worth shards.

    Args:
        plan: its recipe is run for every sample that is read.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.dataset, self.split, self.kind = f"{plan.dataset}/{plan.split}", plan.split, plan.kind
        self.fields = list(plan.fields)
        self.keys = [item.key for item in plan.items]
        self.blocks = [len(items) for _, items in plan.shards()]
        self.hash = hashlib.sha256(compact_json([plan.shard_hash(items) for _, items in plan.shards()])).hexdigest()
        self.subsets = {name: list(keys) for name, keys in plan.subsets.items()}

    def read(self, number: int) -> RawSample:
        item, made = next(self.plan.recipe.make([self.plan.items[number]]))
        if isinstance(made, BadSample):
            raise DamagedSample(made.id, f"{made.role}: {made.reason}")
        return RawSample(item.key, made.fields)
