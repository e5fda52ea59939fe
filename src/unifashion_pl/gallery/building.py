"""Staged vectors become an index, or are added to one, in one commit: files of vectors are linked, not copied; no model is needed."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

from unifashion_pl import files
from unifashion_pl.arguments import asked_at
from unifashion_pl.data.plan import shortened
from unifashion_pl.gallery import segments, store
from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.rows import IndexRows
from unifashion_pl.gallery.staging import different, mendable, note_of
from unifashion_pl.gallery.stored import Note, Stored

EMBED = "unifashion index embed"


def staged(folder: Path) -> Stored:
    """What lies in a folder of :mod:`unifashion_pl.gallery.staging`; every byte of its vectors is compared with what was written.

    Raises:
        FileNotFoundError, FormatError: nothing there, or damaged.
    """
    with mendable(folder):
        if note_of(folder) is not None:
            return store.check(folder, staged=True)
    raise FileNotFoundError(f"{folder} holds no vectors that `{EMBED}` wrote")


def shards(folders: Sequence[Path]) -> list[Stored]:
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
        if differences := different(first.settings, one.settings):
            raise ValueError(f"{first.folder} and {one.folder} do not belong together: {differences}. Embed one of them again")
        if (of := _note(one).of) != (number := _note(first).of):
            raise ValueError(f"{first.folder} is one of {number} shards, {one.folder} one of {of}: name those of one number")
        if _shape(one) not in (None, (shape := _shape(first) or _shape(one))):
            raise ValueError(
                f"vectors in {first.folder} have the shape {shape}, in {one.folder} {_shape(one)}: embed one of them again"
            )
        for id in one.rows.ids():
            if seen.setdefault(id, one.folder) != one.folder:
                raise ValueError(f"{id} has vectors in {seen[id]} and in {one.folder}: name each shard once")
    _all_there(found)
    return found


def _all_there(found: Sequence[Stored]) -> None:
    of = _note(found[0]).of
    if absent := sorted({*range(of)} - {_note(one).index for one in found}):
        listed = shortened(f"{index}/{of}" for index in absent)
        again = f"make it with `{EMBED} --shard {absent[0]}/{of}`"
        raise FileNotFoundError(f"{len(absent)} of {of} shards are not there, {listed}: {again} and the options of the others")
    for one in found:
        if not _note(one).done:
            shard = f"{_note(one).index}/{of}"
            raise ValueError(
                f"{one.folder} is not finished, {len(one.rows):,} images are embedded: `{EMBED} --shard {shard}` goes on"
            )


def _note(one: Stored) -> Note:
    return one.note or Note()


def _shape(one: Stored) -> tuple[int, ...] | None:
    sets = [held for segment in one.segments.values() for name, held in segment.sets.items() if name not in segments.SINGLE]
    return sets[0].coded.codes.shape[1:] if sets else None


def missing(items: Sequence[IndexItem], root: Path, sources: Sequence[Stored]) -> dict[int, str]:
    """Rows of a catalogue whose pictures were left out when they were embedded: place -> what was wrong.

    Args:
        items: rows whose ``image`` is a path below ``root``; pictures themselves need not be there.

    Raises:
        ValueError: rows that were never embedded, or with another picture or caption.
    """
    known: dict[str, IndexItem] = {}
    for source in sources:
        known |= source.rows.by_id()
    bad = {id: fault for source in sources for id, fault in _note(source).left_out.items()}
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


def build(folder: Path, items: Sequence[IndexItem], sources: Sequence[Stored]) -> Stored:
    """Put an index of those rows that have vectors in the place of whatever is in a folder that this process holds.

    Args:
        items: with all that is to be known of them, in the order that they are to have.

    Raises:
        WriteError: the disk is full, or the folder cannot be written; what was there is as it was.
    """
    rows = IndexRows()
    names = _taken(folder, rows, items, sources, 0)
    store.put(folder, sources[0].settings, rows, names)
    return store.read(folder)


def add(folder: Path, items: Sequence[IndexItem], source: Stored) -> tuple[int, Stored]:
    """Put rows that have vectors into the index in a folder that this process holds, in the place of those of the same ids.

    Returns:
        How many were replaced, and the index.

    Raises:
        WriteError: as :func:`build`.
    """
    stored = store.read(folder)
    made = {*source.rows.ids()}
    gone = stored.rows.keys_of(item.id for item in items if item.id in made)
    stored.rows.remove(gone.values())
    names = _taken(folder, stored.rows, items, [source], max(stored.segments, default=-1) + 1)
    stored.segments.update((number, segments.read(folder / name)) for number, name in names.items())
    return len(gone), store.save(folder, stored)


def _taken(folder: Path, rows: IndexRows, items: Sequence[IndexItem], sources: Sequence[Stored], number: int) -> dict[int, str]:
    """Append rows and link the files of their vectors -> names of these by their numbers, from ``number`` on."""
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    at: dict[str, tuple[int, int, int]] = {}
    names: dict[int, str] = {}
    for source in sources:
        live = source.rows.live()
        numbers = {own: number + i for i, own in enumerate(source.segments)}
        number += len(numbers)
        places = zip((numbers[int(own)] for own in live.segments), live.places.tolist(), live.captioned.tolist())
        at |= zip(source.rows.ids(), places)
        for own, new in numbers.items():
            names[new] = _linked(source.folder / source.segments[own].file, folder)
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
    """Remove a folder of staged vectors that an index has taken; its database first, which would name files that are gone."""
    (folder / store.BASE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
