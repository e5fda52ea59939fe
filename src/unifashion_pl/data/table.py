"""Samples of anybody's own: rows by number, each a mapping of names to pictures, texts and ids, read without shards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from unifashion_pl.data.decode import BadInput, as_bytes, channels_last, decode_picture, own_image, read_bytes, to_rgb, to_store
from unifashion_pl.data.formats import encode
from unifashion_pl.data.plan import Kind, compact_json
from unifashion_pl.data.reader import DamagedSample, RawSample, SampleSource

if TYPE_CHECKING:
    #: Rows that a config can name. To jsonargparse a bare ``Dataset``: subclasses of ``Dataset[Any]`` it gives no arguments.
    Table = Dataset[Any] | Sequence[Any]
else:
    Table = Dataset | Sequence

#: Kind of table -> its columns with pictures, those with anything else that it cannot do without, and those that it may have.
COLUMNS: dict[Kind, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "pairs": (("image",), ("text",), ("caption", "id", "product", "category", "subcategory")),
    "triplets": (("reference", "target"), ("text",), ("caption", "target_id", "category")),
    "gallery": (("image",), ("id",), ("category",)),
    "queries": (("reference",), ("text", "reference_id", "target_id"), ("category",)),
}


class Rows(Protocol):
    """A torch ``Dataset`` of dictionaries, a table of Hugging Face's ``datasets``, a list of dictionaries."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Mapping[str, Any]: ...


class TableSource(SampleSource):
    """Rows -> samples. A picture is a path, the bytes of a file, a PIL image, an array (H, W, 3) or a tensor (3, H, W).

    Pictures that are no files go through PNG, which loses nothing. A texts' column of triplets and queries may hold a list of them.

    Args:
        rows: by number.
        kind: ``pairs``, ``triplets``, ``gallery`` or ``queries``.
        columns: our names, of :data:`COLUMNS`, -> the rows' own; a name that is not in it is the rows' own too.
        labels: further columns of pairs, of plain values.
        dataset, split: whose name results carry; only the split ``train`` is trained on.
        root: what relative paths are relative to.

    Raises:
        TypeError: rows that have no numbers.
        ValueError: no rows, unknown names of columns, or the first row lacks one.
    """

    kind: Kind

    def __init__(
        self,
        rows: Rows,
        kind: Kind,
        columns: Mapping[str, str] | None = None,
        labels: Sequence[str] = (),
        *,
        dataset: str = "table",
        split: str = "train",
        root: str | Path = ".",
    ) -> None:
        if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
            raise TypeError(
                f"{dataset}/{split} is a {type(rows).__name__}, expected rows by number (len(rows), rows[3]): make a list or a map-style "
                "Dataset of it; tar files of others are read by unifashion_pl.data.tars.TarTable"
            )
        pictures, needed, further = COLUMNS[kind]
        if wrong := set(columns or {}) - {*pictures, *needed, *further}:
            raise ValueError(
                f"columns names {', '.join(sorted(wrong))}; columns of {kind} are {', '.join((*pictures, *needed, *further))}"
            )
        if not len(rows):
            raise ValueError(f"{dataset}/{split} has no rows")
        self.rows, self.kind, self.split, self.root = rows, kind, split, Path(root)
        self.dataset = f"{dataset}/{split}"
        self.columns = {name: name for name in (*pictures, *needed, *further)} | dict(columns or {})
        self.labels = tuple(labels)
        self.fields = [*pictures, "meta"]
        self.keys = [f"{number:08d}" for number in range(len(rows))]
        self.blocks = list(getattr(rows, "blocks", [len(rows)]))
        said = [self.dataset, kind, len(rows), self.columns, str(getattr(rows, "_fingerprint", ""))]  # the last of `datasets`
        self.hash = hashlib.sha256(compact_json(said)).hexdigest()
        self.subsets: dict[str, list[str]] = {}
        row = self._row(0)
        for name in (*pictures, *needed, *self.labels):
            if (theirs := self.columns.get(name, name)) not in row:
                cure = "" if name in self.labels else f": say which column it is, columns={{{name!r}: ...}}"
                raise ValueError(f"rows of {self.dataset} have no {theirs!r}, only {', '.join(map(str, row))}{cure}")

    def read(self, number: int) -> RawSample:
        key = self.keys[number]
        try:
            row = self._row(number)
        except (OSError, ValueError, LookupError) as error:
            raise DamagedSample(f"{self.dataset} row {number}", f"{type(error).__name__} {error}") from error
        pictures, needed, further = COLUMNS[self.kind]
        fields: dict[str, bytes] = {}
        for name in pictures:
            try:
                ending, data = picture(row[self.columns[name]], self.root)
            except (BadInput, LookupError) as error:
                raise DamagedSample(f"{self.dataset} row {number}", f"{self.columns[name]}: {error}") from error
            fields[f"{name}.{ending}"] = data
        values = {name: row[self.columns[name]] for name in (*needed, *further) if row.get(self.columns[name]) is not None}
        meta = _META[self.kind](key, values, fields)
        if self.labels:
            meta["labels"] = {name: getattr(row[name], "tolist", lambda name=name: row[name])() for name in self.labels}
        fields["meta.json"] = compact_json(meta)
        return RawSample(key, fields)

    def _row(self, number: int) -> Mapping[str, Any]:
        row = self.rows[number]
        if not isinstance(row, Mapping):
            raise TypeError(
                f"row {number} of {self.dataset} is a {type(row).__name__}, expected a mapping like "
                f"{{{', '.join(f'{name!r}: ...' for name in COLUMNS[self.kind][0])}, 'text': ...}}: let the dataset return one"
            )
        return row


def picture(value: Any, root: Path = Path()) -> tuple[str, bytes]:
    """(``jpg`` or ``png``, bytes) of a picture in any of the forms of :class:`TableSource`.

    Raises:
        BadInput: it is none, or damaged.
    """
    if isinstance(value, Mapping):  # as `datasets` has it undecoded
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | Path):
        value = read_bytes(root / value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return to_store(data, decode_picture(data))[:2]
    if isinstance(value, Tensor | np.ndarray):
        array = as_bytes(channels_last(value))
        if array is None or array.ndim != 3 or array.shape[-1] != 3:
            raise BadInput(
                f"{tuple(value.shape)} {value.dtype}, expected pixels (H, W, 3), of a tensor (3, H, W), uint8 or floats of 0..1"
            )
        value = Image.fromarray(array)
    if not isinstance(value, Image.Image):
        raise BadInput(f"a {type(value).__name__}, expected a path, bytes of a file, a PIL image, an array or a tensor")
    return "png", encode(to_rgb(own_image(value)), "PNG", compress_level=1)


def _pair(key: str, values: Mapping[str, Any], fields: Mapping[str, bytes]) -> dict[str, Any]:
    text, plain = str(values.get("text", "")), {name: str(value) for name, value in values.items()}
    own = {"id": key, "product": plain.get("id", key), "category": "all", "subcategory": plain.get("category", "all")}
    named = {name: plain[name] for name in own if name in plain}
    return {**own, **named, "name": text, "description": plain.get("caption", text)}


def _triplet(key: str, values: Mapping[str, Any], fields: Mapping[str, bytes]) -> dict[str, Any]:
    target = next(data for name, data in fields.items() if name.startswith("target."))
    known = values.get("target_id", hashlib.sha256(target).hexdigest()[:16])
    said = {"target": str(known), "captions": _texts(values), "category": str(values.get("category", "all"))}
    return {**said, "caption": str(values.get("caption", ""))}


def _gallery(key: str, values: Mapping[str, Any], fields: Mapping[str, bytes]) -> dict[str, Any]:
    return {"id": str(values.get("id", key)), "category": str(values.get("category", "all")), "in_union": True}


def _query(key: str, values: Mapping[str, Any], fields: Mapping[str, bytes]) -> dict[str, Any]:
    said = {"captions": _texts(values), "category": str(values.get("category", "all"))}
    return {**said, "reference": str(values["reference_id"]), "target": str(values["target_id"])}


def _texts(values: Mapping[str, Any]) -> list[str]:
    given = values["text"]
    return [given] if isinstance(given, str) else [str(text) for text in given]


_META = {"pairs": _pair, "triplets": _triplet, "gallery": _gallery, "queries": _query}
