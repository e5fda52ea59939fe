"""The manifest of published parts: where they are, what they are for, under which licence, and which hash is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Literal

from tqdm import tqdm

BLOCK = 1 << 22
#: Bars are shown above this size: hashing runs at some hundred MB/s.
LARGE = 1 << 28


@dataclass(frozen=True)
class Part:
    """One published file or folder.

    Attributes:
        name: short name of ours.
        kind: what `weights import` takes it for, None where no import is needed.
        source: hub id or address.
        revision, bytes, sha256: None = not known; a hash of None was not verified.
        file: in that source.
        licence: as its publisher states it.
        commercial: may it be used commercially? ``unclear`` counts as no wherever it matters.
        use: what it is for.
        note: what else to know.
    """

    name: str
    kind: str | None
    source: str
    revision: str | None
    file: str
    bytes: int | None
    sha256: str | None
    licence: str
    commercial: Literal["yes", "no", "unclear"]
    use: str
    note: str | None = None


def load_manifest() -> list[Part]:
    """The shipped manifest.

    Raises:
        FileNotFoundError: it is neither in the package nor in a checkout.
        ValueError: an entry with unknown or missing fields.
    """
    places = [
        Path(str(files("unifashion_pl"))) / "checkpoints" / "manifest.json",
        Path(__file__).parents[3] / "checkpoints" / "manifest.json",
    ]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"the manifest is in none of {', '.join(map(str, places))}: reinstall unifashion-pl")
    names = {field.name for field in fields(Part)}
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
    if wrong := [part.get("name") for part in parts if set(part) != names]:
        raise ValueError(f"{path}: entries {wrong[:3]} have other fields than {sorted(names)}")
    return [Part(**part) for part in parts]


def table(parts: list[Part]) -> str:
    """The manifest for people, one block of two or three lines a part."""
    lines = []
    for part in parts:
        size = "size unknown" if part.bytes is None else f"{part.bytes / 1e6:,.1f} MB"
        known = f"sha256 {part.sha256[:12]}…" if part.sha256 else "hash not verified"
        lines.append(f"{part.name}  [{part.licence}; commercial use: {part.commercial}]")
        lines.append(f"    {part.use}" + (f"  --as {part.kind}" if part.kind else ""))
        lines.append(f"    {part.source} : {part.file}  ({size}, {known})")
        if part.note:
            lines.append(f"    {part.note}")
    yes = sum(part.commercial == "yes" for part in parts)
    return "\n".join([*lines, f"{len(parts)} parts, {yes} of them free for commercial use by their publishers' word"])


def digest(path: Path, progress: bool = False) -> str:
    """SHA-256 of a file."""
    hasher, size = hashlib.sha256(), path.stat().st_size
    hide = not progress or size < LARGE
    with (
        path.open("rb") as stream,
        tqdm(total=size, unit="B", unit_scale=True, desc=f"sha256 {path.name}", disable=hide) as bar,
    ):
        while block := stream.read(BLOCK):
            hasher.update(block)
            bar.update(len(block))
    return hasher.hexdigest()


def find(kind: str | None, hashes: Mapping[str, str], name: str | None = None) -> list[Part]:
    """The part of this name; else the part with one of these hashes; else all parts of the kind.

    Raises:
        ValueError: no part of that name, or its hash is known and none of these.
    """
    parts = load_manifest()
    if name is None:
        exact = [part for part in parts if part.sha256 and part.sha256 in hashes.values()]
        return exact or [part for part in parts if kind is not None and part.kind == kind]
    named = [part for part in parts if part.name == name]
    if not named:
        raise ValueError(f"the manifest has no part {name!r}: `unifashion weights list` shows their names")
    known = named[0].sha256
    if known and known not in hashes.values():
        raise ValueError(f"this is not {name}: its SHA-256 is {known}, found {', '.join(hashes.values())}")
    return named


def licence_of(kind: str, hashes: Mapping[str, str], name: str | None = None) -> str:
    """Licence of a source as far as the manifest knows it: one, or those that the kind may have."""
    licences = list(dict.fromkeys(part.licence for part in find(kind, hashes, name)))
    return " or ".join(licences) if licences else "not in the manifest"


def refuse_non_commercial(kind: str, hashes: Mapping[str, str], name: str | None = None) -> None:
    """
    Raises:
        ValueError: nothing is known about the source, or some part that it may be is not free for commercial use.
    """
    found = find(kind, hashes, name)
    refused = [part for part in found if part.commercial != "yes"]
    if not found:
        raise ValueError(
            f"refused under --commercial-only: the manifest knows no part of kind {kind}, so its licence is unknown. Nothing was written"
        )
    if refused:
        what = "; ".join(f"{p.name}: {p.licence}, commercial use {p.commercial}" for p in refused[:3])
        other = "" if len(found) == len(refused) else " If it is another part, say so with --part."
        raise ValueError(f"refused under --commercial-only: this may be {what}. Nothing was written.{other}")
