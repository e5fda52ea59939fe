"""An index as one Parquet file, for pandas, DuckDB, Spark and engines that load it: a row an image, its columns, its vectors as lists. Q tokens, E width."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from unifashion_pl.files import replacing_path
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.segments import APPEARANCE, CAPTIONS, SINGLE, Floats
from unifashion_pl.gallery.stored import Stored

#: Images of a row group.
GROUP = 1024
#: Columns of ours; one of the catalogue's that is called like it, or like a set of vectors, comes back with this before its name.
OURS, OTHER = ("id", "product", "image", "caption"), "column_"
#: Key of the settings in the file's metadata.
KEY = b"unifashion"


def write_parquet(stored: Stored, path: str | Path) -> int:
    """Write all images of an index, in its order.

    Sets of vectors are columns of lists: ``reference`` and ``target`` of Q lists of E float32, as exact as the index keeps them, ``captions`` of E
    and ``appearance`` of K. The file's metadata say under ``unifashion`` which model made them.

    Returns:
        How many images.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: an empty index.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a Parquet file needs pyarrow, which is not installed: pip install 'unifashion-pl[export]'"
        ) from error
    live = stored.rows.live()
    if not len(live):
        raise ValueError(f"the index in {stored.folder} is empty")
    sets = ["reference", "target"] if stored.settings.query_set == "both" else [stored.settings.query_set]
    sets += [APPEARANCE] if stored.settings.appearance is not None else []
    sets += [CAPTIONS] if (live.captioned >= 0).any() else []
    columns = {name: OTHER + name if name in (*OURS, *sets) else name for name in stored.rows.columns()}
    kinds = {name: kind for name, (_, kind) in stored.rows.columns().items()}
    fields = [pyarrow.field(name, pyarrow.string()) for name in OURS]
    fields += [
        pyarrow.field(given, pyarrow.float64() if kinds[name] == "number" else pyarrow.string())
        for name, given in columns.items()
    ]
    one = pyarrow.list_(pyarrow.float32())
    fields += [pyarrow.field(name, one if name in SINGLE else pyarrow.list_(one)) for name in sets]
    told = json.dumps(asdict(stored.settings)).encode()
    schema = pyarrow.schema(fields, metadata={KEY: told})
    with replacing_path(path) as place, pyarrow.parquet.ParquetWriter(place, schema) as writer:
        for items, vectors in _groups(stored, sets):
            data: dict[str, list[Any]] = {name: [_own(item, name) for item in items] for name in OURS}
            data |= {given: [_typed(item.columns.get(name), kinds[name]) for item in items] for name, given in columns.items()}
            writer.write_table(pyarrow.Table.from_pydict({**data, **vectors}, schema))
    return len(live)


def _groups(stored: Stored, sets: list[str]) -> Iterator[tuple[list[IndexItem], dict[str, list[Any]]]]:
    live, corpus = stored.rows.live(), stored.corpus
    for start in range(0, len(live), GROUP):
        rows = np.arange(start, min(start + GROUP, len(live)))
        keys = live.keys[rows].tolist()
        items = stored.rows.items(keys)
        vectors: dict[str, list[Any]] = {}
        for name in sets:
            found = corpus.floats(name, rows)
            there = live.captioned[rows] >= 0 if name == CAPTIONS else np.ones(len(rows), bool)
            vectors[name] = _lists(found, name in SINGLE, there)
        yield [items[key] for key in keys], vectors


def _lists(found: Floats | None, single: bool, there: Any) -> list[Any]:
    """Vectors (n, Q, E) as lists, None where there is none."""
    if found is None:
        return [None] * len(there)
    return [((one[0] if single else one).tolist() if kept else None) for one, kept in zip(found, there)]


def _own(item: IndexItem, name: str) -> str | None:
    found = {"id": item.id, "product": item.product or item.id, "image": item.image, "caption": item.caption}[name]
    return found or None


def _typed(value: Any, kind: str) -> Any:
    return value if value is None or kind == "number" else str(value)
