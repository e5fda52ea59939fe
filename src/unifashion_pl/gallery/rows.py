"""The rows of an index in SQLite: which image lies where, and all that is known of it. Filters, facets and words are asked here.

A gallery holds its rows in a database in memory, so that it sees one state for as long as it lives; :mod:`unifashion_pl.gallery.store` copies
them from and to the file.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.gallery.items import IndexItem, Value
from unifashion_pl.gallery.where import NUMBER, TEXT, Column, condition
from unifashion_pl.names import unknown

Keys = NDArray[np.int64]
#: What every index has, so that filters may name it; a column of one's own called caption hides that one.
OWN = {"id": Column("id", TEXT), "product": Column("coalesce(product, id)", TEXT), "caption": Column("caption", TEXT)}
RESERVED = {"id": "ids", "product": "products"}
SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value)",
    "CREATE TABLE segments (number INTEGER PRIMARY KEY, file TEXT NOT NULL)",
    "CREATE TABLE columns (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL)",
    "CREATE TABLE items (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, segment INTEGER NOT NULL, place INTEGER NOT NULL, "
    "captioned INTEGER NOT NULL, caption TEXT NOT NULL, image TEXT, product TEXT)",
    "CREATE VIRTUAL TABLE words USING fts5(text, tokenize = 'unicode61 remove_diacritics 2')",
)
FIXED = "key, id, segment, place, captioned, caption, image, product"
#: Values bound in one statement; older builds of SQLite take 999.
BOUND = 900


@dataclass(frozen=True)
class Live:
    """The images that are there, in the order in which they came: keys (M,), and where their vectors lie.

    ``captioned`` is the row among the captions' vectors of the segment, -1 without one.
    """

    keys: Keys
    segments: Keys
    places: Keys
    captioned: Keys

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def of_segments(self) -> dict[int, Keys]:
        """Positions of each segment's images, ascending; found once, not by a look at all images for each segment."""
        order = np.argsort(self.segments, kind="stable")
        numbers, starts = np.unique(self.segments[order], return_index=True)
        return dict(zip(numbers.tolist(), np.split(order, starts[1:])))

    def take(self, which: NDArray[np.bool_]) -> Live:
        """Some of them."""
        return Live(self.keys[which], self.segments[which], self.places[which], self.captioned[which])


class IndexRows:
    """A database in memory, which knows what was done to it since it was read.

    Args:
        source: an open database to copy; None = an empty one.

    Attributes:
        next_key: of the next new row. first: keys from here on are new. removed: older keys that are gone.

    Raises:
        sqlite3.Error: the source is damaged.
    """

    def __init__(self, source: sqlite3.Connection | None = None) -> None:
        self.base = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        with suppress(sqlite3.Error):
            self.base.execute("PRAGMA trusted_schema = OFF")
        if source is None:
            for statement in SCHEMA:
                self.base.execute(statement)
        else:
            source.backup(self.base)
        self._live: Live | None = None
        self.next_key = self.first = self._number("SELECT coalesce(max(key), -1) + 1 FROM items")
        self.removed: list[int] = []

    def _number(self, statement: str, *values: Any) -> int:
        (found,) = self.base.execute(statement, values).fetchone()
        return int(found)

    def __len__(self) -> int:
        return len(self.live())

    def live(self) -> Live:
        """All images; kept until rows change."""
        if self._live is None:
            found = self.base.execute("SELECT key, segment, place, captioned FROM items ORDER BY key").fetchall()
            table = np.array(found, np.int64).reshape(-1, 4).T
            self._live = Live(*(np.ascontiguousarray(column) for column in table))
        return self._live

    # -- what is known

    def ids(self) -> list[str]:
        """In the order in which they came."""
        return [id for (id,) in self.base.execute("SELECT id FROM items ORDER BY key")]

    def captions(self) -> list[str]:
        """As :meth:`ids`; "" = none."""
        return [caption for (caption,) in self.base.execute("SELECT caption FROM items ORDER BY key")]

    def keys_of(self, ids: Iterable[str]) -> dict[str, int]:
        """The keys of those ids that are there."""
        found: dict[str, int] = {}
        for part in _parts(list(ids)):
            found |= self.base.execute(f"SELECT id, key FROM items WHERE id IN ({_marks(part)})", part).fetchall()
        return found

    def items(self, keys: Sequence[int]) -> dict[int, IndexItem]:
        """Rows by their keys."""
        columns = self.columns()
        wanted = "".join(f", c{number}" for number, _ in columns.values())
        found: dict[int, IndexItem] = {}
        for part in _parts(keys):
            for key, id, caption, image, product, *values in self.base.execute(
                f"SELECT key, id, caption, image, product{wanted} FROM items WHERE key IN ({_marks(part)})", part
            ):
                known = {name: value for name, value in zip(columns, values) if value is not None}
                found[key] = IndexItem(id, caption, image, product, known)
        return found

    def by_id(self) -> dict[str, IndexItem]:
        """All rows by their ids."""
        return {item.id: item for item in self.items(self.live().keys.tolist()).values()}

    def named(self, keys: Sequence[int], what: str = "id") -> dict[int, str]:
        """Ids, or values of another column, by keys; an image without a value has its id."""
        found: dict[int, str] = {}
        for part in _parts(keys):
            found |= self.base.execute(
                f"SELECT key, coalesce({self.column(what).place}, id) FROM items WHERE key IN ({_marks(part)})", part
            ).fetchall()
        return found

    def columns(self) -> dict[str, tuple[int, str]]:
        """Name -> number and kind (``number`` or ``text``) of the columns that came with the images."""
        return {
            name: (number, kind)
            for number, name, kind in self.base.execute("SELECT number, name, kind FROM columns ORDER BY number")
        }

    def known(self) -> dict[str, Column]:
        """All columns that a filter may name."""
        return {**OWN, **{name: Column(f"c{number}", kind) for name, (number, kind) in self.columns().items()}}

    def column(self, name: str) -> Column:
        """A column by its name.

        Raises:
            ArgumentError: an unknown one, with the known ones.
        """
        if name not in (known := self.known()):
            raise ArgumentError(unknown("column", name, known))
        return known[name]

    # -- changes

    def add(self, parts: Sequence[tuple[int, Sequence[IndexItem], Sequence[int]]]) -> None:
        """Append rows.

        Args:
            parts: for each segment its number, its rows in the order of their vectors, and each one's row among the captions' vectors (-1 = none).

        Raises:
            ArgumentError: a value of another kind than its column holds; nothing is added.
        """
        at = [(number, i, row) for number, group, captioned in parts for i, (_, row) in enumerate(zip(group, captioned))]
        self.place([item for _, group, _ in parts for item in group], at)

    def place(self, items: Sequence[IndexItem], at: Sequence[tuple[int, int, int]]) -> None:
        """Append rows whose vectors lie anywhere: segment, row there, and row among its captions' vectors (-1 = none); errors as in :meth:`add`."""
        with transaction(self.base):
            places = self._columns_for(items)
            names = "".join(f", c{number}" for number in places.values())
            rows = [
                (key, one.id, *where, one.caption, one.image, one.product, *(one.columns.get(name) for name in places))
                for key, (one, where) in enumerate(zip(items, at), self.next_key)
            ]
            marks = _marks(range(8 + len(places)))
            self.base.executemany(f"INSERT INTO items ({FIXED}{names}) VALUES ({marks})", rows)
            words = [(key, text) for key, one in enumerate(items, self.next_key) if (text := _words(one))]
            self.base.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", words)
        self.next_key += len(items)
        self._live = None

    def _columns_for(self, items: Sequence[IndexItem]) -> dict[str, int]:
        """Numbers of the columns of new rows; those that are new are made, when all values fit."""
        kinds: dict[str, str] = {}
        known = self.columns()
        for item in items:
            for name, value in item.columns.items():
                if name in RESERVED:
                    raise ArgumentError(f"a column cannot be called {name!r}: every index has one, given as {RESERVED[name]}")
                if value is None:
                    continue
                kind = TEXT if isinstance(value, str) else NUMBER
                before = known[name][1] if name in known else kinds.setdefault(name, kind)
                if before != kind:
                    raise ArgumentError(
                        f"the column {name!r} holds {before}s, and {item.id!r} has {value!r} there: write one kind, and nothing where "
                        "there is no value"
                    )
        for name, kind in kinds.items():
            number = self._number("SELECT coalesce(max(number), -1) + 1 FROM columns")
            self.base.execute("INSERT INTO columns VALUES (?, ?, ?)", (number, name, kind))
            self.base.execute(f"ALTER TABLE items ADD COLUMN c{number}")
        present = dict.fromkeys(name for item in items for name in item.columns)
        return {name: number for name, (number, _) in self.columns().items() if name in present}

    def remove(self, keys: Iterable[int]) -> None:
        """Take rows out."""
        gone = list(keys)
        remove(self.base, gone)
        self.removed += [key for key in gone if key < self.first]
        self._live = None

    def settle(self, moved: Sequence[Sequence[int]] = ()) -> None:
        """What was done is on the disk now, where some rows have new places: (segment, place, captioned, key) of each."""
        self.first, self.removed = self.next_key, []
        if moved:
            self.base.executemany(MOVE, moved)
            live, (segments, places, captioned, keys) = self.live(), np.array(moved, np.int64).T
            at = np.searchsorted(live.keys, keys)
            self._live = Live(live.keys, live.segments.copy(), live.places.copy(), live.captioned.copy())
            self._live.segments[at], self._live.places[at], self._live.captioned[at] = segments, places, captioned

    # -- questions

    def matching(self, where: str) -> Keys:
        """Keys of the rows that a filter lets through, in order; see :func:`unifashion_pl.gallery.where.condition`."""
        text, values = condition(where, self.known())
        found = self.base.execute(f"SELECT key FROM items WHERE {text} ORDER BY key", values)
        return np.fromiter((key for (key,) in found), np.int64)

    def facets(self, column: str, where: str | None = None, most: int = 100) -> dict[Value, int]:
        """How many images have each value of a column, most frequent first; images without a value are not counted.

        Raises:
            ArgumentError: an unknown column, or as :meth:`matching`.
        """
        text, values = condition(where, self.known()) if where is not None else ("1", [])
        return dict(
            self.base.execute(
                f"SELECT {self.column(column).place} AS value, count(*) AS n FROM items WHERE {text} AND value IS NOT NULL "
                "GROUP BY value ORDER BY n DESC, value LIMIT ?",
                [*values, most],
            ).fetchall()
        )

    def words(self, text: str, most: int = 1000) -> dict[int, float]:
        """Keys of the rows whose texts have words of ``text``, and BM25 as a share of the best one's, 0..1."""
        terms = dict.fromkeys(re.findall(r"\w+", text.lower()))
        if not terms:
            return {}
        query = " OR ".join(f'"{term}"' for term in terms)
        found = self.base.execute(
            "SELECT rowid, -bm25(words) AS score FROM words WHERE words MATCH ? ORDER BY score DESC LIMIT ?", (query, most)
        ).fetchall()
        best = max((score for _, score in found), default=0.0)
        # in tiny indexes BM25's weight of a frequent word may be 0 or less: all that have it count alike
        return {key: score / best if best > 0 else 1.0 for key, score in found if score > 0 or best <= 0}


@contextmanager
def transaction(base: sqlite3.Connection) -> Iterator[None]:
    """All of the block, or nothing of it."""
    base.execute("BEGIN IMMEDIATE")
    try:
        yield
        base.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has rolled back already
            base.execute("ROLLBACK")
        raise


MOVE = "UPDATE items SET segment = ?, place = ?, captioned = ? WHERE key = ?"


def name_files(base: sqlite3.Connection, files: Mapping[int, str]) -> None:
    """The files of all segments, by their numbers."""
    base.execute("DELETE FROM segments")
    base.executemany("INSERT INTO segments VALUES (?, ?)", files.items())


def remove(base: sqlite3.Connection, keys: Iterable[int]) -> None:
    """Take rows out of a database."""
    gone = [(int(key),) for key in keys]
    base.executemany("DELETE FROM items WHERE key = ?", gone)
    base.executemany("DELETE FROM words WHERE rowid = ?", gone)


def follow(target: sqlite3.Connection, rows: IndexRows) -> None:
    """Do in another database what was done in ``rows`` since both were equal."""
    remove(target, rows.removed)
    there = {number for (number,) in target.execute("SELECT number FROM columns")}
    columns = rows.columns()
    for name, (number, kind) in columns.items():
        if number not in there:
            target.execute("INSERT INTO columns VALUES (?, ?, ?)", (number, name, kind))
            target.execute(f"ALTER TABLE items ADD COLUMN c{number}")
    names = FIXED + "".join(f", c{number}" for number, _ in columns.values())
    new = rows.base.execute(f"SELECT {names} FROM items WHERE key >= ?", (rows.first,))
    target.executemany(f"INSERT INTO items ({names}) VALUES ({_marks(range(8 + len(columns)))})", new)
    words = rows.base.execute("SELECT rowid, text FROM words WHERE rowid >= ?", (rows.first,))
    target.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", words)


def _words(item: IndexItem) -> str:
    """Everything of a row that is text."""
    texts = [item.caption, *(value for value in item.columns.values() if isinstance(value, str))]
    return " ".join(dict.fromkeys(text for text in texts if text.strip()))


def _parts(values: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), BOUND):
        yield [value if isinstance(value, str) else int(value) for value in values[start : start + BOUND]]


def _marks(values: Sequence[Any] | range) -> str:
    return ", ".join("?" * len(values))
