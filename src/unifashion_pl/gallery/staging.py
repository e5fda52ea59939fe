"""Vectors on their way into an index: a folder in the form of an index, one commit a batch of images, so that whoever was interrupted goes on.

``index build`` and ``index add`` embed into one inside of the index's folder, ``index embed`` into one for each shard;
:mod:`unifashion_pl.gallery.building` takes them in. Rows have an id, the caption that was embedded, the picture's name below the root and its
size in bytes and time of change: whatever has these embedded already is not embedded again.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from unifashion_pl.arguments import ArgumentError
from unifashion_pl.gallery import segments, store
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.rows import IndexRows, follow, remove, transaction
from unifashion_pl.gallery.segments import AGAIN, Segment
from unifashion_pl.gallery.stored import NOTE, SMALL, IndexSettings, Note, no_index
from unifashion_pl.reading import FormatError

#: The columns of sizes, and of times of change in nanoseconds as text, which numbers of SQL and numpy would round.
BYTES, CHANGED = "bytes", "changed"


@dataclass(frozen=True)
class Shard:
    """A share of a catalogue: number ``index``, from 0 as ranks are counted, of ``of``.

    An id says where it belongs, so that a CSV which grows moves no row to another shard.
    """

    index: int = 0
    of: int = 1

    @classmethod
    def read(cls, text: str) -> Shard:
        """``I/N``.

        Raises:
            ArgumentError: something else.
        """
        index, _, of = text.partition("/")
        if not (index.isdecimal() and of.isdecimal() and int(index) < int(of)):
            raise ArgumentError(f"a shard is {text!r}, expected I/N with I from 0 to N - 1, e.g. 0/2 and 1/2")
        return cls(int(index), int(of))

    @classmethod
    def here(cls) -> Shard:
        """Of this process, as torchrun or SLURM started it; the only one otherwise."""
        for index, of in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if index in os.environ and of in os.environ:
                return cls.read(f"{os.environ[index]}/{os.environ[of]}")
        return cls()

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def has(self, id: str) -> bool:
        """Whether a row is of this shard."""
        return self.of == 1 or zlib.crc32(id.encode()) % self.of == self.index


WHOLE = Shard()


def refuse(folder: Path) -> None:
    """Refuse vectors on their way as the place of an index, which would be written over them.

    Raises:
        ValueError: the folder holds some.
    """
    there = None
    with suppress(FormatError):  # what is damaged may be written over
        there = note_of(folder)
    if there is not None:
        raise no_index(folder)


@contextmanager
def mendable(folder: Path) -> Iterator[None]:
    """Damage with its cure: the same command would find it again.

    Raises:
        FormatError: a damaged folder, or one that lacks a file.
    """
    try:
        yield
    except (FormatError, FileNotFoundError) as error:
        told = str(error).replace(AGAIN, "embed what is there again, by the command that did, with --anew")
        raise FormatError(told) from error


def note_of(folder: Path) -> Note | None:
    """Of a folder that holds vectors on their way; None of any other.

    Raises:
        FormatError: damaged.
    """
    if not store.is_new(folder):
        return None
    with store.opened(folder / store.BASE) as base:
        return store.meta(base, folder / store.BASE)[2]


def put_note(folder: Path, note: Note) -> None:
    """Replace the note."""
    with store.opened(folder / store.BASE, writes=True) as base, transaction(base):
        base.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (NOTE, msgspec.json.encode(asdict(note)).decode()))


def rows_in(folder: Path, settings: IndexSettings, shard: Shard) -> dict[str, IndexItem] | None:
    """Rows by id that an earlier run embedded, None if there was none.

    Raises:
        ValueError: it was of another model, for another kind of index, or of another shard.
    """
    with mendable(folder):
        if note_of(folder) is None:
            return None
        there = store.read(folder, staged=True)
    if differences := different(there.settings, settings):
        raise ValueError(
            f"{folder} holds {len(there.rows):,} images of an interrupted run, embedded with {differences}: repeat that command, or throw "
            "them away with --anew"
        )
    note = there.note or Note()
    if (note.index, note.of) != (shard.index, shard.of):
        raise ValueError(f"{folder} holds shard {note.index}/{note.of}, not {shard}: name another folder, or --anew")
    return there.rows.by_id()


def begin(folder: Path, settings: IndexSettings, shard: Shard) -> None:
    """Begin in a folder that this process holds (:func:`unifashion_pl.files.exclusive`), or inside of one; what was there is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    store.put(folder, settings, IndexRows(), {})
    put_note(folder, Note(shard.index, shard.of))


def different(there: IndexSettings, wanted: IndexSettings) -> str:
    """What differs between two settings, in words; "" if nothing does. A threshold is no matter of vectors."""
    names = {"query_set": "queries"}
    pairs = [(names.get(name, name), was, getattr(wanted, name)) for name, was in vars(there).items() if name != "threshold"]
    return ", ".join(f"{name} {was}, not {now}" for name, was, now in pairs if was != now)


def drop(folder: Path, ids: Iterable[str]) -> None:
    """Take rows out whose picture or caption is another by now."""
    with store.opened(folder / store.BASE, writes=True) as base, transaction(base):
        found = [base.execute("SELECT key FROM items WHERE id = ?", (id,)).fetchone() for id in ids]
        remove(base, [key for (key,) in found])


def append(
    folder: Path, settings: IndexSettings, items: Sequence[IndexItem], captioned: Sequence[int], segment: Segment
) -> None:
    """Add a batch in one commit; the other batches are not read.

    Raises:
        WriteError: the disk is full, or the folder cannot be written; earlier batches are kept.
    """
    name = segments.write(folder, segment)
    store.sync(folder)
    with store.opened(folder / store.BASE, writes=True) as base, transaction(base):
        (key,) = base.execute("SELECT coalesce(max(key), -1) + 1 FROM items").fetchone()
        (number,) = base.execute("SELECT coalesce(max(number), -1) + 1 FROM segments").fetchone()
        new = IndexRows()
        new.next_key = new.first = key
        new.add([(number, items, captioned)])
        follow(base, new)
        base.execute("INSERT INTO segments VALUES (?, ?)", (number, name))
        store.put_meta(base, settings)


def compact(folder: Path) -> None:
    """Join neighbouring files to some of thousands of rows each, one commit a file, so that an index can take them as they are."""
    stored = store.read(folder, staged=True)
    counts = {number: len(stored.rows.live().of_segments.get(number, ())) for number in sorted(stored.segments)}
    for group in _groups(counts):
        stored = store.repacked(folder, stored, [group])
    store.sweep(folder, (segment.file for segment in stored.segments.values()))


def _groups(rows: Mapping[int, int]) -> Iterator[list[int]]:
    """Neighbouring segments that are small, together no more than they need to be to be none."""
    group: list[int] = []
    for number, count in rows.items():
        if count < SMALL:
            group.append(number)
        if len(group) > 1 and sum(rows[one] for one in group) >= SMALL:
            yield group
            group = []
    if len(group) > 1 or any(rows[one] == 0 for one in group):
        yield group
