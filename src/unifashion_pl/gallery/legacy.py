"""Galleries as they were kept before: ``gallery.json``, and the file of tensors that it names. They are read, and become new ones when changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from unifashion_pl.gallery.items import IndexItem
from unifashion_pl.gallery.rows import IndexRows
from unifashion_pl.gallery.scan import as_array
from unifashion_pl.gallery.segments import Floats, numbered, segment_from
from unifashion_pl.gallery.stored import IndexSettings, Stored
from unifashion_pl.parts.tensors import load_tensors
from unifashion_pl.provenance import tensor_bytes
from unifashion_pl.reading import FormatError, from_json, read_text

#: Format 1 had one name for all files of tensors.
FORMATS = (1, 2)
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


def read_older(folder: Path) -> Stored:
    """The gallery of an older form in a folder, in memory.

    Raises:
        FileNotFoundError: no gallery there, or its tensors are gone.
        FormatError: another format, damaged, or files that do not belong together; the message says which and where.
    """
    place = folder / DESCRIPTION
    text = read_text(place)
    description = _description(text, place)
    path = folder / description.tensors
    if not path.is_file():
        raise FileNotFoundError(f"{place} names {path.name}, which is not there: build the gallery again")
    tensors = load_tensors(path)
    if description.format > 1 and path.name != _name_for(tensors):
        raise FormatError(f"{path} is damaged: its vectors are not those that were written; build the gallery again")
    _check_tensors(path, description, tensors)
    return _as_stored(description, {name: as_array(tensor) for name, tensor in tensors.items()}, folder, _digest(text))


def state_of_older(folder: Path) -> str | None:
    """What changes with every change of the gallery in a folder; None without one."""
    try:
        return _digest(read_text(folder / DESCRIPTION))
    except FileNotFoundError:
        return None


def _as_stored(description: Description, arrays: dict[str, Floats], folder: Path, state: str) -> Stored:
    rows, held = IndexRows(), {}
    if description.ids:
        captions = arrays.pop("captions")
        has = captions.any(axis=1).ravel()
        vectors = {name.removeprefix("tokens."): array for name, array in arrays.items()} | {"captions": captions[has][:, None]}
        held[0] = segment_from(vectors, "fp32")
        items = [IndexItem(id, caption) for id, caption in zip(description.ids, description.captions)]
        rows.add([(0, items, numbered(has))])
    return Stored(IndexSettings(description.query_set, description.model), rows, held, state, folder.resolve())


def _check_tensors(path: Path, description: Description, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those of a gallery; none are there before the first image.

    Raises:
        FormatError: absent or unknown ones, another type or shape, or numbers that are none.
    """
    ids = description.ids
    if not tensors and not ids:
        return
    sets = ("reference", "target") if description.query_set == "both" else (description.query_set,)
    expected = {"captions", *(f"tokens.{name}" for name in sets)}
    if tensors.keys() != expected:
        raise FormatError(f"{path} holds {', '.join(sorted(tensors)) or 'nothing'}, expected {', '.join(sorted(expected))}")
    of = tensors[f"tokens.{sets[0]}"].shape
    tokens = (len(ids), *of[1:]) if len(of) == 3 else (len(ids), "Q", "E")
    for name, tensor in tensors.items():
        shape = (tokens[0], tokens[2]) if name == "captions" else tokens
        if str(tensor.dtype) != "torch.float32" or tuple(tensor.shape) != shape:
            raise FormatError(
                f"{path}: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}, expected torch.float32 of {shape} for {len(ids)} ids"
            )
        if bad := (~tensor.flatten(1).isfinite().all(1)).nonzero().flatten().tolist():
            names = ", ".join(repr(ids[row]) for row in bad[:5])
            raise FormatError(f"{path}: {name} has NaN or infinite numbers for {names}; build the gallery again")


def _description(text: str, place: Path) -> Description:
    """``gallery.json``, checked.

    Raises:
        FormatError: with the field.
    """
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
