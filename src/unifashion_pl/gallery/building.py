"""Staged vectors become an index, or are added to one, in one commit: files of vectors are linked, not copied; no model is needed."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unifashion_pl import files
from unifashion_pl.arguments import asked_at
from unifashion_pl.data.plan import shortened
from unifashion_pl.gallery import segments, store
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.rows import IndexRows
from unifashion_pl.gallery.staging import Note, different, mendable, note_of
from unifashion_pl.gallery.stored import Stored

EMBED = "unifashion index embed"


@dataclass(frozen=True)
class Staged:
    """A folder of embedded images, as it was read."""

    folder: Path
    stored: Stored
    note: Note


def staged(folder: Path) -> Staged:
    """What lies in a folder of :mod:`unifashion_pl.gallery.staging`; every byte of its vectors is compared with what was written.

    Raises:
        FileNotFoundError, FormatError: nothing there, or damaged.
    """
    with mendable(folder):
        if (note := note_of(folder)) is not None:
            return Staged(folder, store.check(folder, staged=True), note)
    raise FileNotFoundError(f"{folder} holds no vectors that `{EMBED}` wrote")


def shards(folders: Sequence[Path]) -> list[Staged]:
    """All shards in some folders, or in folders inside of them, as they lie after embedding over ranks or machines.

    Raises:
        FileNotFoundError: none there, or some of them are missing, with the numbers.
        ValueError: damaged, unfinished, or shards that do not belong together: other models, settings, shapes, numbers of shards, or the same id in two.
    """
    places = [place for folder in folders for place in ([folder] if store.is_new(folder) else sorted(folder.glob("*/")))]
    found = [staged(place) for place in places if store.is_new(place)]
    if not found:
        raise FileNotFoundError(f"no vectors in {', '.join(map(str, folders))}: make them with `{EMBED} --out FOLDER`")
    first, seen = found[0], dict[str, Path]()
    for one in found:
        if differences := different(first.stored.settings, one.stored.settings):
            raise ValueError(f"{first.folder} and {one.folder} do not belong together: {differences}. Embed one of them again")
        if one.note.of != first.note.of:
            raise ValueError(
                f"{first.folder} is one of {first.note.of} shards, {one.folder} one of {one.note.of}: name those of one number"
            )
        if _shape(one) not in (None, (shape := _shape(first) or _shape(one))):
            raise ValueError(
                f"vectors in {first.folder} have the shape {shape}, in {one.folder} {_shape(one)}: embed one of them again"
            )
        for id in one.stored.rows.ids():
            if seen.setdefault(id, one.folder) != one.folder:
                raise ValueError(f"{id} has vectors in {seen[id]} and in {one.folder}: name each shard once")
    _all_there(found)
    return found


def _all_there(found: Sequence[Staged]) -> None:
    of = found[0].note.of
    if absent := sorted({*range(of)} - {one.note.index for one in found}):
        listed = shortened(f"{index}/{of}" for index in absent)
        again = f"make it with `{EMBED} --shard {absent[0]}/{of}`"
        raise FileNotFoundError(f"{len(absent)} of {of} shards are not there, {listed}: {again} and the options of the others")
    for one in found:
        if not one.note.done:
            raise ValueError(
                f"{one.folder} is not finished, {len(one.stored.rows):,} images are embedded: `{EMBED} --shard {one.note.index}/{of}` goes on"
            )


def _shape(one: Staged) -> tuple[int, ...] | None:
    sets = [held for segment in one.stored.segments.values() for name, held in segment.sets.items() if name != "captions"]
    return sets[0].coded.codes.shape[1:] if sets else None


def missing(items: Sequence[IndexItem], root: Path, sources: Sequence[Staged]) -> dict[int, str]:
    """Rows of a catalogue whose pictures were left out when they were embedded: place -> what was wrong.

    Args:
        items: rows whose ``image`` is a path below ``root``; pictures themselves need not be there.

    Raises:
        ValueError: rows that were never embedded, or with another picture or caption.
    """
    known: dict[str, IndexItem] = {}
    for source in sources:
        rows = source.stored.rows
        known |= {item.id: item for item in rows.items(rows.live().keys.tolist()).values()}
    bad = {id: fault for source in sources for id, fault in source.note.left_out.items()}
    absent, other = [], []
    for item in items:
        row, name = known.get(item.id), Path(item.image or "").relative_to(root).as_posix()
        if row is None and item.id not in bad:
            absent.append(item.id)
        if row is not None and (row.image, row.caption) != (name, item.caption):
            other.append(item.id)
    if absent or other:
        parts = [f"{len(absent):,} rows of the CSV have no vectors ({shortened(absent)})"] if absent else []
        parts += [f"{len(other):,} were embedded with another picture or text ({shortened(other)})"] if other else []
        raise ValueError(
            f"{'; '.join(parts)}: run `{EMBED}` for every shard again, with --texts or without as here; it embeds these alone"
        )
    if strange := known.keys() - {item.id for item in items}:
        warnings.warn(
            f"{len(strange):,} vectors are of rows that the CSV does not have, and are left out", stacklevel=asked_at()
        )
    return {place: bad[item.id] for place, item in enumerate(items) if item.id not in known}


def build(folder: Path, items: Sequence[IndexItem], sources: Sequence[Staged]) -> Stored:
    """Put an index of those rows that have vectors in the place of whatever is in a folder that this process holds.

    Args:
        items: with all that is to be known of them, in the order that they are to have.

    Raises:
        WriteError: the disk is full, or the folder cannot be written; what was there is as it was.
    """
    rows = IndexRows()
    names = _taken(folder, rows, items, sources, 0)
    rows.settle(names, ())
    store.put(folder, sources[0].stored.settings, rows)
    return store.read(folder)


def add(folder: Path, items: Sequence[IndexItem], source: Staged) -> tuple[int, Stored]:
    """Put rows that have vectors into the index in a folder that this process holds, in the place of those of the same ids.

    Returns:
        How many were replaced, and the index.

    Raises:
        WriteError: as :func:`build`.
    """
    stored = store.read(folder)
    rows, first = stored.rows, stored.rows.next_key
    made = {*source.stored.rows.ids()}
    gone = list(rows.keys_of(item.id for item in items if item.id in made).values())
    rows.remove(gone)
    names = _taken(folder, rows, items, [source], max(stored.segments, default=-1) + 1)
    held = stored.segments | {number: segments.read(folder / name) for number, name in names.items()}
    if store.is_new(folder):
        return len(gone), store.extend(folder, Stored(stored.settings, rows, held, stored.state), first, gone)
    store.replace(folder, stored.settings, rows, held)
    return len(gone), store.read(folder)


def _taken(folder: Path, rows: IndexRows, items: Sequence[IndexItem], sources: Sequence[Staged], number: int) -> dict[int, str]:
    """Append rows and link the files of their vectors -> names of these by their numbers, from ``number`` on."""
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    at: dict[str, tuple[int, int, int]] = {}
    names: dict[int, str] = {}
    for source in sources:
        live = source.stored.rows.live()
        numbers = {own: number + i for i, own in enumerate(source.stored.segments)}
        number += len(numbers)
        places = zip((numbers[int(own)] for own in live.segments), live.places.tolist(), live.captioned.tolist())
        at |= zip(source.stored.rows.ids(), places)
        for own, new in numbers.items():
            names[new] = _linked(source.folder / source.stored.segments[own].file, folder)
    wanted = [item for item in items if item.id in at]
    rows.place(wanted, [at[item.id] for item in wanted])
    used = {at[item.id][0] for item in wanted}
    return {new: name for new, name in names.items() if new in used}


def _linked(path: Path, folder: Path) -> str:
    """The same file in another folder: a second name of it, or a copy where the system gives none."""
    target = folder / path.name
    if not target.exists():
        try:
            os.link(path, target)
        except OSError:
            with files.replacing(target) as file, open(path, "rb") as source:
                shutil.copyfileobj(source, file)
    return path.name


def settled(folder: Path) -> None:
    """Remove a folder of staged vectors that an index has taken."""
    shutil.rmtree(folder, ignore_errors=True)
