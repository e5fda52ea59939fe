"""Tar files of others, as WebDataset writes them: samples by number, without copying them into shards of ours."""

from __future__ import annotations

import json
import tarfile
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from glob import glob
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from unifashion_pl.files import WriteError, write_text
from unifashion_pl.reading import FormatError, read_json

#: Written beside the first tar: where its samples lie, so that the next start need not scan them.
NAME = "tar-index.json"
FORMAT = 1
#: A sample's name, and by field where its bytes begin and how many there are.
Sample = tuple[str, dict[str, tuple[int, int]]]


class TarTable(Dataset[dict[str, Any]]):
    """Rows of tar files by number: members ``KEY.field`` that lie one behind the other are one row.

    A field is what follows the first dot, in small letters: ``jpg``, ``seg.png``. ``txt`` and ``cls`` are text; of ``json`` the entries are
    fields too, ``json.caption``; all others are bytes. ``__key__`` is the row's name. Headers are read once, and again where a tar has another size or
    time than then.

    Args:
        tars: files, a folder of them, or a pattern (``shards/train-*.tar``).

    Attributes:
        blocks: rows of each tar.

    Raises:
        FileNotFoundError: there are none.
        ValueError: compressed, cut off, or no tar.
    """

    def __init__(self, tars: str | Path | Sequence[str | Path]) -> None:
        self.paths = _paths(tars)
        place = self.paths[0].parent / NAME
        known = _known(place)
        described = {str(path): _of(path) for path in self.paths}
        fresh = [path for path in self.paths if known.get(str(path), {}).get("file") != described[str(path)]]
        found = {path: {"file": file, "samples": known.get(path, {}).get("samples")} for path, file in described.items()}
        for path in fresh:
            found[str(path)]["samples"] = scan(path)
        if fresh:
            try:
                write_text(place, json.dumps({"format": FORMAT, "tars": known | found}))
            except WriteError as error:
                warnings.warn(f"{error}; the tar files are scanned at every start", stacklevel=2)
        self.samples: list[list[Sample]] = [found[str(path)]["samples"] for path in self.paths]
        self.blocks = [len(samples) for samples in self.samples]
        self._ends = list(accumulate(self.blocks))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number: int) -> dict[str, Any]:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        place = bisect_right(self._ends, number)
        key, fields = self.samples[place][number - self._ends[place]]
        row: dict[str, Any] = {"__key__": key}
        with open(self.paths[place], "rb") as file:
            for field, (start, size) in fields.items():
                file.seek(start)
                row |= _decoded(field, file.read(size))
        return row


def scan(path: Path) -> list[Sample]:
    """Samples of a tar file, of which only the headers are read.

    Raises:
        ValueError: compressed, cut off, or no tar.
    """
    samples: list[Sample] = []
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, _, field = name.partition(".")
                if not member.isfile() or not stem or not field:
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"it ends within {member.name}")
                key = f"{folder}/{stem}" if folder else stem
                if not samples or samples[-1][0] != key:
                    samples.append((key, {}))
                samples[-1][1][field.lower()] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is no tar file whose samples can be read by place ({error}): unpack it if it is compressed, copy it again if it is cut off"
        ) from error
    return samples


def _paths(tars: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(tars, str | Path):
        folder = Path(tars)
        paths = sorted(folder.glob("*.tar")) if folder.is_dir() else [Path(found) for found in sorted(glob(str(tars)))]
    else:
        paths = [Path(path) for path in tars]
    absent = [str(path) for path in paths if not path.is_file()]
    if absent or not paths:
        raise FileNotFoundError(
            f"no tar files: {', '.join(absent[:5]) or tars} (expected files, a folder of *.tar, or a pattern)"
        )
    return [path.resolve() for path in paths]


def _of(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _known(place: Path) -> dict[str, Any]:
    """What an earlier scan has left; nothing where there is none that can be read."""
    if not place.is_file():
        return {}
    try:
        content = read_json(place, dict[str, Any], "an index of tar files")
    except FormatError:
        return {}
    tars = content.get("tars")
    return tars if content.get("format") == FORMAT and isinstance(tars, dict) else {}


def _decoded(field: str, data: bytes) -> dict[str, Any]:
    last = field.rpartition(".")[2]
    if last in ("txt", "text", "cls"):
        return {field: data.decode("utf-8-sig").strip()}
    if last == "json":
        content = json.loads(data)
        entries = content.items() if isinstance(content, dict) else ()
        return {field: content, **{f"{field}.{name}": value for name, value in entries}}
    return {field: data}
