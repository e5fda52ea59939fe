"""The folder of an index: ``index.db`` (SQLite), whose commits count, and the files of vectors that it names.

Vectors are written first, under names of their own, and one transaction makes them valid together with their rows: whoever reads, at
whatever moment, and whatever was interrupted, has the index before or after it. Nothing that is valid is written over. M images.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import msgspec
import numpy as np

from unifashion_pl import files
from unifashion_pl.gallery import segments
from unifashion_pl.gallery.rows import MOVE, SCHEMA, IndexRows, follow, name_files, transaction
from unifashion_pl.gallery.segments import AGAIN, Segment
from unifashion_pl.gallery.stored import NOTE, IndexSettings, Note, Stored, no_index, packed, worth_packing
from unifashion_pl.reading import FormatError, from_json

FORMAT, BASE = 3, "index.db"
FILE = re.compile(r"vectors-[0-9a-f]{32}\.safetensors")
#: Seconds that a reader or writer waits for another one's commit.
PATIENCE = 60.0
#: The description of an older form, see :mod:`unifashion_pl.gallery.legacy`, which is imported only where there is one.
OLDER = "gallery.json"
#: Folders inside of an index where images of a build, or of an addition, are embedded until all are there, see :mod:`unifashion_pl.gallery.staging`.
BUILDING, ADDING = ".building", ".adding"
#: What the system says through SQLite.
REFUSALS = {"full": errno.ENOSPC, "readonly": errno.EACCES, "unable to open": errno.EACCES, "disk I/O": errno.EIO}


def require(folder: Path) -> Path:
    """The folder of an index that has to be there, of today's form or an older one.

    Raises:
        FileNotFoundError: no index there.
    """
    if not is_new(folder) and not (folder / OLDER).is_file():
        if is_new(folder / BUILDING):
            with opened(folder / BUILDING / BASE) as base:
                (there,) = base.execute("SELECT count(*) FROM items").fetchone()
            raise FileNotFoundError(
                f"the index in {folder} is not finished, {there:,} images are embedded: the same `unifashion index build` goes on"
            )
        fault = f"is no index (it has no {BASE})" if folder.exists() else "is not there"
        raise FileNotFoundError(f"{folder} {fault}: `unifashion index build --out {folder}` makes an index")
    return folder


def is_new(folder: Path) -> bool:
    """Whether an index of today's form was begun there; a writer that was killed before its first commit leaves none."""
    place = folder / BASE
    try:
        if place.stat().st_size > 0 and place.with_name(f"{BASE}-journal").exists():
            with suppress(FormatError, RuntimeError), opened(place) as base:  # takes back what was half written
                base.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return place.stat().st_size > 0
    except OSError:
        return False


def read(folder: Path, *, staged: bool = False) -> Stored:
    """The index in a folder, or what is ``staged`` for one; beside a writer the older or the newer one.

    Raises:
        FileNotFoundError: no index there, or a file of vectors is gone.
        FormatError: another format, or damaged; the message says which file.
        ValueError: vectors on their way into an index, and ``staged`` is not said.
    """
    require(folder)
    if not is_new(folder):
        from unifashion_pl.gallery.legacy import read_older

        try:
            return read_older(folder)
        except FileNotFoundError:
            if not is_new(folder):  # else it has just become a new one
                raise
    before = None
    while True:
        stored, names = _rows_at(folder)
        if stored.note is not None and not staged:
            raise no_index(folder)
        try:
            for number, name in names.items():
                stored.segments[number] = segments.read(folder / name)
        except FileNotFoundError as error:
            if before == stored.state:
                raise FileNotFoundError(f"{folder / BASE} names {error.filename}, which is not there: {AGAIN}") from None
            before = stored.state  # a writer has just put its vectors into another file, which is named now
            continue
        _check(folder, stored)
        return stored


def state_of(folder: Path) -> str | None:
    """What changes with every change of the index in a folder; None without one."""
    if not is_new(folder):
        from unifashion_pl.gallery.legacy import state_of_older

        return state_of_older(folder)
    with opened(folder / BASE) as base:
        return meta(base, folder / BASE)[1]


def save(folder: Path, stored: Stored) -> Stored:
    """Write an index into a folder that this process holds (:func:`unifashion_pl.files.exclusive`), in one commit.

    Where it was read from, only what was done to it since is written; else it takes the place of whatever is there.

    Returns:
        The index as it is on the disk now.

    Raises:
        RuntimeError: it was read from this folder, and another process has changed it since: what that one added would be lost.
        WriteError: the disk is full, or the folder cannot be written; what was there is as it was.
    """
    if stored.folder != folder.resolve() or (now := state_of(folder)) is None:
        return put_anew(folder, stored)
    if now != stored.state:
        raise RuntimeError(
            f"the gallery in {folder} was changed by another process since it was read: load it again and repeat the change, "
            "or save to another folder"
        )
    if not is_new(folder):
        return put_anew(folder, stored)
    held = {
        number: segments.read(folder / segments.write(folder, segment)) if not segment.file else segment
        for number, segment in stored.segments.items()
    }
    now_there = _committed(folder, stored, held)
    groups = worth_packing(now_there.rows, held)
    return repacked(folder, now_there, groups) if groups else now_there


def put_anew(folder: Path, stored: Stored) -> Stored:
    """:func:`save` in the place of whatever is there."""
    own = IndexRows(stored.rows.base)
    moved, places = packed(own.live(), stored.segments, [[number] for number in stored.segments])
    names = {number: segments.write(folder, segment) for number, segment in moved.items()}
    own.settle(places)
    put(folder, stored.settings, own, names)
    return read(folder)


def put(folder: Path, settings: IndexSettings, rows: IndexRows, names: Mapping[int, str]) -> None:
    """Put rows, whose files of vectors lie in the folder, in the place of whatever is there, in one commit; errors as in :func:`save`."""
    name_files(rows.base, names)
    rows.base.execute("DELETE FROM meta")
    put_meta(rows.base, settings)
    sync(folder)
    place = folder / BASE
    with files.writing(place):
        place.touch()  # with the umask's permissions
    try:
        with opened(place, writes=True) as base:
            rows.base.backup(base)
    except FormatError:  # what was there is no database any more
        with files.replacing_path(place) as part, closing(sqlite3.connect(part)) as base:
            rows.base.backup(base)
    sync(folder)
    sweep(folder, names.values())


def repacked(folder: Path, stored: Stored, groups: Sequence[Sequence[int]]) -> Stored:
    """Write the live rows of groups of segments into one file each, in one commit."""
    gone = {number for group in groups for number in group}
    live = stored.rows.live()
    moved, places = packed(live.take(np.isin(live.segments, [*gone])), stored.segments, groups)
    held = {number: segment for number, segment in stored.segments.items() if number not in gone}
    held |= {number: segments.read(folder / segments.write(folder, segment)) for number, segment in moved.items()}
    return _committed(folder, stored, held, places)


def _committed(folder: Path, stored: Stored, held: dict[int, Segment], moved: Sequence[Sequence[int]] = ()) -> Stored:
    """One commit: what was done to the rows, where some have moved, and the segments that they lie in now, whose files are there."""
    sync(folder)
    names = {number: segment.file for number, segment in held.items()}
    with opened(folder / BASE, writes=True) as base, transaction(base):
        follow(base, stored.rows)
        base.executemany(MOVE, moved)
        name_files(base, names)
        state = put_meta(base, stored.settings)
    stored.rows.settle(moved)
    sweep(folder, names.values())
    return dataclasses.replace(stored, segments=held, state=state)


def take_out(folder: Path, ids: Sequence[str]) -> int:
    """Take images out of an index in one commit; no model is needed for that -> how many are left.

    Raises:
        KeyError: ids that are not there; nothing is removed then.
    """
    with files.exclusive(folder):
        stored = read(folder)
        found = stored.rows.keys_of(ids)
        if unknown := sorted(set(ids) - set(found)):
            raise KeyError(f"not in {folder}, which holds {len(stored.rows)} images: {', '.join(unknown[:5])}")
        stored.rows.remove(found.values())
        return len(save(folder, stored).rows)


def check(folder: Path, *, staged: bool = False) -> Stored:
    """Read everything that an index has and compare it with what was written; opening one does so with small files alone.

    Raises:
        FileNotFoundError, ValueError: as :func:`read`.
    """
    stored = read(folder, staged=staged)
    for segment in stored.segments.values():
        if segment.file:
            segments.check(folder / segment.file)
    with _damage(folder / BASE):
        _check_base(stored.rows.base, folder / BASE)
    return stored


def _rows_at(folder: Path) -> tuple[Stored, dict[int, str]]:
    place = folder / BASE
    with opened(place) as base:
        settings, state, note = meta(base, place)
        rows = IndexRows(base)
    with _damage(place):
        names = dict(rows.base.execute("SELECT number, file FROM segments").fetchall())
        if bad := [name for name in names.values() if not isinstance(name, str) or not FILE.fullmatch(name)]:
            raise FormatError(f"{place} names {bad[0]!r}, expected files of vectors that Gallery.save wrote beside it")
        if place.stat().st_size <= segments.SMALL:
            _check_base(rows.base, place)
        rows.live()
    return Stored(settings, rows, {}, state, folder.resolve(), note), names


def _check_base(base: sqlite3.Connection, place: Path) -> None:
    """Look at everything in a database.

    Raises:
        FormatError, sqlite3.Error: damaged.
    """
    if (found := base.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
        raise FormatError(f"{place} is damaged ({found[0]}): {AGAIN}")
    base.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    for _ in base.execute("SELECT * FROM items"):
        pass
    strange = "typeof(id) <> 'text' OR typeof(caption) <> 'text' OR typeof(coalesce(image, '')) <> 'text' OR typeof(coalesce(product, '')) <> 'text'"
    if base.execute(f"SELECT count(*) FROM items WHERE {strange}").fetchone() != (0,):
        raise FormatError(f"{place} is damaged: ids, captions or pictures that are no texts; {AGAIN}")
    if base.execute("SELECT count(*) FROM columns WHERE kind NOT IN ('number', 'text')").fetchone() != (0,):
        raise FormatError(f"{place} is damaged: columns that hold neither numbers nor texts; {AGAIN}")


def _check(folder: Path, stored: Stored) -> None:
    """Rows and vectors belong together.

    Raises:
        FormatError: rows without vectors, other kinds of vectors than the index says, or numbers that are none.
    """
    live, place = stored.rows.live(), folder / BASE
    wanted = {"both": {"reference"}, "reference": {"reference"}, "target": {"target"}}[stored.settings.query_set]
    wanted |= {segments.APPEARANCE} if stored.settings.appearance is not None else set()
    for number, segment in stored.segments.items():
        mine = live.segments == number
        captions = len(segment.sets["captions"]) if "captions" in segment.sets else 0
        lengths = {len(one) for name, one in segment.sets.items() if name != "captions"}
        kept = segments.STORAGE[stored.settings.storage]
        fits = all(
            one.coded.codes.ndim == 3
            and one.coded.scales.shape == one.coded.codes.shape[:2]
            and (one.exact is None) == (kept is None)
            and (one.exact is None or (one.exact.dtype == kept and one.exact.shape == one.coded.codes.shape))
            for one in segment.sets.values()
        )
        if not fits or len(lengths) != 1 or not wanted <= segment.sets.keys():
            raise FormatError(f"{folder / segment.file} holds other vectors than {place} says: {AGAIN}")
        places, captioned = live.places[mine], live.captioned[mine]
        if places.size and (
            places.min() < 0 or places.max() >= segment.rows or captioned.min() < -1 or captioned.max() >= captions
        ):
            raise FormatError(f"{place} names rows that {segment.file} does not have: {AGAIN}")
        _check_finite(folder / segment.file, segment)
    if not np.isin(live.segments, list(stored.segments)).all():
        raise FormatError(f"{place} has rows without vectors: {AGAIN}")


def check_shapes(stored: Stored, tokens: int, width: int) -> None:
    """Vectors are those of a model of this shape.

    Raises:
        FormatError: other numbers of tokens, or another width.
    """
    for segment in stored.segments.values():
        for name, one in segment.sets.items():
            found = one.coded.codes.shape[1:]
            expected = (1 if name in segments.SINGLE else tokens, found[1] if name == segments.APPEARANCE else width)
            if found != expected:
                raise FormatError(
                    f"{stored.folder}/{segment.file}: {name} has {found[0]} tokens of {found[1]} numbers, this model's have {expected[0]} of "
                    f"{expected[1]}: load the model that made it, or {AGAIN}"
                )


def _check_finite(path: Path, segment: Segment) -> None:
    for name, one in segment.sets.items():
        small = one.exact is not None and one.exact.nbytes <= segments.SMALL
        if not np.isfinite(one.coded.scales).all() or (small and not np.isfinite(one.exact).all()):  # type: ignore[arg-type]
            raise FormatError(f"{path}: {name} has NaN or infinite numbers; {AGAIN}")


def put_meta(base: sqlite3.Connection, settings: IndexSettings) -> str:
    """The settings, and a new state."""
    state = uuid4().hex
    values = {"format": FORMAT, "state": state, "settings": msgspec.json.encode(dataclasses.asdict(settings)).decode()}
    base.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())
    return state


def meta(base: sqlite3.Connection, place: Path) -> tuple[IndexSettings, str, Note | None]:
    """Settings, state, and the note of vectors on their way.

    Raises:
        FormatError: no database of ours, or one of another format.
    """
    allowed = {re.match(r"CREATE (?:VIRTUAL )?TABLE (\w+)", statement)[1] for statement in SCHEMA}  # type: ignore[index]
    named = {
        name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'words_*'")
    }
    others = base.execute("SELECT count(*) FROM sqlite_master WHERE type IN ('view', 'trigger')").fetchone()
    values = dict(base.execute("SELECT name, value FROM meta").fetchall()) if named == allowed and others == (0,) else {}
    if values.get("format") is None or not isinstance(values.get("state"), str):
        raise FormatError(f"{place} is no index that Gallery.save wrote: build it again")
    if values["format"] != FORMAT:
        raise FormatError(f"{place} has format {values['format']}, this version reads {FORMAT} and the older forms")
    settings: IndexSettings = from_json(str(values.get("settings")), IndexSettings, str(place), "settings of an index")
    told = values.get(NOTE)
    note = None if told is None else from_json(str(told), Note, str(place), "a note about embedding")
    return settings, values["state"], note


@contextmanager
def opened(place: Path, writes: bool = False) -> Iterator[sqlite3.Connection]:
    """The database, or a sentence."""
    with _damage(place, writes):
        base = sqlite3.connect(f"{place.resolve().as_uri()}?mode=rw", uri=True, timeout=PATIENCE, isolation_level=None)
        with closing(base):
            base.execute("PRAGMA synchronous = EXTRA")
            yield base


@contextmanager
def _damage(place: Path, writes: bool = False) -> Iterator[None]:
    """SQLite's errors as this library's.

    Raises:
        WriteError: the system refuses. FormatError: the file is damaged. RuntimeError: another process keeps it.
    """
    try:
        yield
    except (sqlite3.Error, OverflowError, ValueError, TypeError) as error:
        if isinstance(error, FormatError) or (isinstance(error, ValueError | TypeError) and writes):
            raise
        text = str(error)
        if "locked" in text:
            raise RuntimeError(
                f"{place}: another process has been writing there for {PATIENCE:.0f} seconds; try again later"
            ) from error
        code = next((code for words, code in REFUSALS.items() if words in text), None)
        if writes and code is not None and isinstance(error, sqlite3.OperationalError):
            with files.writing(place):
                raise OSError(code, os.strerror(code), str(place)) from error
        raise FormatError(f"{place} is damaged ({text}): {AGAIN}") from error


def sync(folder: Path) -> None:
    """Names of files are on the disk before something counts on them."""
    with suppress(OSError):  # a system that has no such call for folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path, named: Iterable[str]) -> None:
    """Remove vectors that nothing names, and galleries of an older form, which the index has replaced."""
    keep = {*named}
    for other in (*folder.glob("vectors-*.safetensors"), *folder.glob("gallery*.safetensors"), folder / OLDER):
        if other.name not in keep:
            with suppress(OSError):  # somebody reads it on a system that keeps open files: the next writer removes it
                other.unlink()
