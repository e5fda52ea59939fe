"""Lists that VITON-HD and Dress Code have in common: pairs of file names, phrases of garments."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from unifashion_pl.data.plan import MissingDataError
from unifashion_pl.reading import FormatError, read_json, text_lines


def read_pair_list(path: Path, name_of: Callable[[str], str], form: str) -> list[tuple[str, str]]:
    """Names of (person, garment), in file order.

    Args:
        name_of: file name -> name.
        form: of a line, for messages.

    Raises:
        FileNotFoundError: absent.
        MissingDataError: no text, a line of another form, or a person that occurs twice.
    """
    pairs: dict[str, str] = {}
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
        content: dict[str, list[str]] = read_json(path, dict[str, list[str]], "garment -> list of phrases")
    except FormatError as error:
        raise MissingDataError(str(error)) from error
    return content
