"""The folder of a gallery: ``gallery.json``, which counts, and the file of tensors that it names.

The tensors are written first, under a name of their own, and replacing ``gallery.json`` makes them valid: whoever reads, at whatever
moment, and whatever was interrupted, has the old gallery or the new one. M images.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from unifashion_pl import files
from unifashion_pl.parts.tensors import load_tensors
from unifashion_pl.provenance import tensor_bytes
from unifashion_pl.reading import FormatError, from_json, read_text

#: Format 1 had one name for all files of tensors.
FORMAT, FORMATS = 2, (1, 2)
DESCRIPTION, TENSORS = "gallery.json", "gallery.safetensors"


@dataclass(frozen=True)
class Version:
    """What every format has."""

    format: int


@dataclass(frozen=True, kw_only=True)
class Description(Version):
    """``gallery.json``: the rows of the tensors, whose vectors they are, and the file that holds them."""

    query_set: Literal["reference", "target", "both"]
    model: str
    ids: list[str]
    captions: list[str]
    tensors: str = TENSORS


@dataclass(frozen=True)
class Stored:
    """A gallery as it was read: its description, its tensors by name, and the state of the folder that they are of."""

    description: Description
    tensors: dict[str, Tensor]
    state: str


def description_at(folder: Path) -> Path:
    """The file of a gallery that has to be there.

    Raises:
        FileNotFoundError: no gallery there.
    """
    if not (folder / DESCRIPTION).is_file():
        raise FileNotFoundError(f"{folder} has no {DESCRIPTION}: expected a folder written by Gallery.save")
    return folder / DESCRIPTION


def read(folder: Path) -> Stored:
    """The gallery in a folder; beside a writer the older or the newer one.

    Raises:
        FileNotFoundError: no gallery there, or its tensors are gone.
        ValueError: another format, damaged, or files that do not belong together; the message says which and where.
    """
    place, before = description_at(folder), None
    while True:
        text = read_text(place)
        description = _description(text, place)
        path = folder / description.tensors
        try:
            tensors = load_tensors(path)
        except (FileNotFoundError, ValueError):
            if path.is_file():
                raise
            if before == description.tensors:
                raise FileNotFoundError(f"{place} names {path.name}, which is not there: build the gallery again") from None
            before = description.tensors  # a writer has just replaced it: its successor is named now
            continue
        if description.format > 1 and path.name != _name_for(tensors):
            raise FormatError(f"{path} is damaged: its vectors are not those that were written; build the gallery again")
        return Stored(description, tensors, _digest(text))


def write(folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Replace the gallery in a folder that this process holds (:func:`unifashion_pl.files.exclusive`).

    Args:
        description: fields of :class:`Description` beside ``format`` and ``tensors``.

    Returns:
        The folder's new state.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    name = _name_for(tensors)
    text = json.dumps(asdict(Description(format=FORMAT, tensors=name, **description)), ensure_ascii=False, indent=1) + "\n"
    files.write_tensors(folder / name, tensors)
    files.write_text(folder / DESCRIPTION, text)
    for other in folder.glob("gallery*.safetensors"):
        if other.name != name:
            with suppress(OSError):  # somebody reads it on a system that keeps open files: the next writer removes it
                other.unlink()
    return _digest(text)


def state_of(folder: Path) -> str | None:
    """What changes with every change of the gallery in a folder; None without one."""
    try:
        return _digest(read_text(folder / DESCRIPTION))
    except FileNotFoundError:
        return None


def check_tensors(stored: Stored, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are not those of a model's gallery.

    Args:
        shapes: of all tensors that it has; none are there before the first image.

    Raises:
        FormatError: absent or unknown ones, another type or shape, or numbers that are none.
    """
    ids, found = stored.description.ids, stored.tensors
    place = folder / stored.description.tensors
    if not found and not ids:
        return
    if found.keys() != shapes.keys():
        raise FormatError(f"{place} holds {', '.join(sorted(found)) or 'nothing'}, expected {', '.join(sorted(shapes))}")
    for name, tensor in found.items():
        if str(tensor.dtype) != "torch.float32" or tuple(tensor.shape) != shapes[name]:
            raise FormatError(
                f"{place}: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}, expected torch.float32 of {shapes[name]} "
                f"for {len(ids)} ids and this model"
            )
        if bad := not_finite(tensor):
            names = ", ".join(repr(ids[row]) for row in bad)
            raise FormatError(f"{place}: {name} has NaN or infinite numbers for {names}; build the gallery again")


def not_finite(vectors: Tensor) -> list[int]:
    """The first few rows of vectors (n, …) that are NaN or infinite."""
    bad: list[int] = (~vectors.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    return bad[:5]


def _description(text: str, place: Path) -> Description:
    what = f"the {DESCRIPTION} of a gallery"
    version: Version = from_json(text, Version, str(place), what)
    if version.format not in FORMATS:
        raise FormatError(f"{place} has format {version.format}, this version reads {' and '.join(map(str, FORMATS))}")
    found: Description = from_json(text, Description, str(place), what)
    named = found.tensors.removeprefix("gallery-").removesuffix(".safetensors")
    newer = named.isalnum() and found.tensors == f"gallery-{named}.safetensors"
    if not (found.tensors == TENSORS if found.format == 1 else newer):
        raise FormatError(
            f"{place}: tensors is {found.tensors!r}, expected the name of a file that Gallery.save wrote beside it"
        )
    if len(found.captions) != len(found.ids):
        raise FormatError(f"{place}: captions has {len(found.captions)} entries for {len(found.ids)} ids")
    if twice := [id for id, times in Counter(found.ids).items() if times > 1]:
        raise FormatError(f"{place}: ids must be unique, found several times: {', '.join(map(repr, twice[:5]))}")
    return found


def _name_for(tensors: Mapping[str, Tensor]) -> str:
    """Other tensors, another name; so a file that is named is never written over, and one that was damaged is known."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        if tensor.numel():
            digest.update(tensor_bytes(tensor))
    return f"gallery-{digest.hexdigest()[:16]}.safetensors"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
