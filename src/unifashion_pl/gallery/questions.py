"""Many queries from a file, asked together, and their hits as lists for TREC's tools."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unifashion_pl.gallery.asking import Asking
from unifashion_pl.gallery.hits import Hit
from unifashion_pl.reading import FormatError, text_lines
from unifashion_pl.reading_csv import read_table
from unifashion_pl.trec import Best, Listing

COLUMNS = ("id", "text", "image", "relevant")
#: Between the ids of several right answers.
BETWEEN = "|"


@dataclass(frozen=True)
class FileQuery:
    """A row of a file of queries: a text, an image, or both; ``right`` are the ids of its right answers, none = not judged."""

    id: str
    text: str | None = None
    image: Path | None = None
    right: tuple[str, ...] = ()


def read_queries(path: Path) -> list[FileQuery]:
    """Queries of a CSV, or of a text file (``.txt``), one text a line.

    A CSV has the columns ``text`` and ``image`` (a path in the folder of the CSV), one of them or both, and may have ``id`` (else
    queries are called by their numbers from 1) and ``relevant``: ids of right answers with ``|`` between them.

    Raises:
        FileNotFoundError: no such file.
        FormatError: no queries; with the line: a column of another name, neither text nor image, an image elsewhere, or an id that occurs twice.
    """
    if path.suffix.lower() == ".txt":
        found = [(line, FileQuery(str(number), text)) for number, (line, text) in enumerate(text_lines(path), 1)]
    else:
        table = read_table(path)
        names = [name.lower() for name in table.header]
        if not {"text", "image"} & {*names} or {*names} - {*COLUMNS} or len({*names}) < len(names):
            raise FormatError(
                f"{path}:1: columns are {', '.join(table.header)}; expected text or image, and perhaps id and relevant"
            )
        found = [
            (row.line, _query(path, row.line, number, {name: cell.strip() for name, cell in zip(names, row.cells)}))
            for number, row in enumerate(table.rows, 1)
        ]
    seen: dict[str, int] = {}
    for line, query in found:
        if query.text is None and query.image is None:
            raise FormatError(f"{path}:{line}: the query {query.id} has neither text nor image")
        if (first := seen.setdefault(query.id, line)) != line:
            raise FormatError(f"{path}:{line}: the id {query.id!r} is that of line {first} too; every query needs its own")
    if not found:
        raise FormatError(f"{path} has no queries")
    return [query for _, query in found]


def _query(path: Path, line: int, number: int, cells: dict[str, str]) -> FileQuery:
    right = [name.strip() for name in cells.get("relevant", "").split(BETWEEN)]
    image = None
    if name := cells.get("image"):
        folder = os.path.abspath(path.parent)
        image = Path(os.path.normpath(os.path.join(folder, name)))
        if not image.is_relative_to(folder):
            raise FormatError(f"{path}:{line}: the image {name!r} lies outside of the folder of the CSV")
    return FileQuery(cells.get("id") or str(number), cells.get("text") or None, image, tuple(filter(None, right)))


def ask(gallery: Asking, queries: Sequence[FileQuery], **options: Any) -> list[Listing]:
    """The lists of all queries, in their order; those of one kind (text, image, both) read the gallery together.

    Args:
        options: of :class:`~unifashion_pl.gallery.asking.SearchOptions`.

    Raises:
        ValueError, RuntimeError: as a single search.
    """
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for i, query in enumerate(queries):
        kinds.setdefault((query.text is not None, query.image is not None), []).append(i)
    hits: dict[int, list[Hit]] = {}
    for (texts, images), members in kinds.items():
        asked = [queries[i] for i in members]
        given = [one.text for one in asked if one.text is not None] if texts else None
        pictures = [one.image for one in asked if one.image is not None] if images else None
        hits |= zip(members, gallery.search_many(given, pictures, **options))
    return [listing(query.id, hits[i], query.right) for i, query in enumerate(queries)]


def listing(query: str, hits: Sequence[Hit], right: Sequence[str] = ()) -> Listing:
    """Hits of one query as a list."""
    return Listing(query, Best([hit.id for hit in hits], np.array([hit.score for hit in hits], np.float32)), right)
