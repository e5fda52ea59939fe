"""What VITON-HD and Dress Code have in common: pairs of a person and a garment, files named by both, phrases of garments."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from unifashion_pl.data.decode import encode_png
from unifashion_pl.data.plan import Input, Item, MissingDataError, listing, shortened
from unifashion_pl.data.recipes import FileRecipe, Picture
from unifashion_pl.person.sketch import garment_sketch
from unifashion_pl.reading import FormatError, read_json, text_lines


@dataclass
class TryOnRecipe(FileRecipe):
    """Pairs -> the pictures that a copy has, ``meta.json``, and what a subclass makes of the pictures.

    A spec names ``person`` and ``garment``, and says whether they are ``paired``.

    Attributes:
        folder: that all files are below.
        patterns: role -> place of its file, with the fields of the spec in braces.
        pose: the same of the joints' file, or None.
        phrases: garment -> phrases.
        draw: draw the in-shop sketch where none is delivered.
    """

    fallible: ClassVar[bool] = True
    folder: Path
    patterns: dict[str, str]
    pose: str | None = None
    phrases: dict[str, list[str]] = field(default_factory=dict)
    draw: bool = False

    def quick(self) -> Self:
        """Without drawn sketches."""
        return replace(self, draw=False)

    def inputs(self, item: Item) -> list[Input]:
        """All pictures of a pair."""
        whose = {role: "person" if "{person}" in pattern else "garment" for role, pattern in self.patterns.items()}
        return [Input(getattr(item.spec, whose[r]), r, place(self.folder, p, item)) for r, p in self.patterns.items()]

    def meta(self, item: Item) -> dict[str, Any]:
        return {"category": "upper_body", **item.spec._asdict(), "phrases": self.phrases.get(item.spec.garment, [])}

    def extra(self, item: Item, pictures: dict[str, Picture]) -> dict[str, bytes]:
        """The drawn sketch."""
        if "sketch" in pictures or not self.draw:
            return {}
        return {"sketch.png": encode_png(garment_sketch(pictures["garment"].image))}


def place(folder: Path, pattern: str, item: Item) -> Path:
    """The file of a pair that a pattern of :class:`TryOnRecipe` means."""
    return folder / pattern.format(**item.spec._asdict())


def find_patterns(folder: Path, known: Mapping[str, Sequence[str]], items: Sequence[Item]) -> dict[str, str]:
    """For every role the first of its patterns by which one of the pairs has a file; a name that no system takes has none."""
    found = {
        role: (p for p in patterns if any(os.path.isfile(place(folder, p, i)) for i in items))
        for role, patterns in known.items()
    }
    return {role: pattern for role, there in found.items() if (pattern := next(there, None)) is not None}


def without_phrases(items: Sequence[Item], phrases: Mapping[str, Sequence[str]], where: str = "") -> list[str]:
    """A note about garments that nothing is said of; [] without such."""
    mute = sorted({i.spec.garment for i in items if not any(p.strip() for p in phrases.get(i.spec.garment, []))})
    return [f"{len(mute):,} garments have no phrases{where}: {shortened(mute)}"] if mute else []


def read_pair_list(path: Path, name_of: Callable[[str], str], form: str, expected: str) -> list[tuple[str, str]]:
    """Names of (person, garment), in file order.

    Args:
        name_of: file name -> name.
        form: of a line; expected: in the place of a list that is absent; for messages.

    Raises:
        MissingDataError: absent, no text, a line of another form, or a person that occurs twice.
    """
    pairs: dict[str, str] = {}
    if not path.is_file():
        raise MissingDataError(f"{path} is missing (found: {listing(path.parent)}); expected {expected}")
    try:
        for number, line in text_lines(path):
            names = re.split(r"[ \t]+", line.strip())
            if len(names) != 2:
                raise MissingDataError(f"{path}:{number}: expected `{form}`, found {line[:80]!r}")
            person, garment = map(name_of, names)
            if person in pairs:
                raise MissingDataError(f"{path}:{number}: {person} is there a second time; every person is expected once")
            pairs[person] = garment
    except FormatError as error:
        raise MissingDataError(f"{error}; download it again") from error
    return list(pairs.items())


def read_phrases(path: Path) -> dict[str, list[str]] | None:
    """Garment -> phrases, None if the file is not there.

    Raises:
        MissingDataError: it has another shape.
    """
    if not path.is_file():
        return None
    try:
        return read_json(path, dict[str, list[str]], "garment -> list of phrases")
    except FormatError as error:
        raise MissingDataError(str(error)) from error
