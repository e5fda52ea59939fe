"""Lists that VITON-HD and Dress Code have in common: pairs of file names, phrases of garments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from unifashion_pl.data.plan import MissingDataError


def read_pair_list(path: Path, name_of: Callable[[str], str], form: str) -> list[tuple[str, str]]:
    """Names of (person, garment), in file order.

    Args:
        name_of: file name -> name.
        form: of a line, for messages.

    Raises:
        FileNotFoundError: absent.
        MissingDataError: no text, a line of another form, or a person that occurs twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise MissingDataError(f"{path} is not UTF-8 text ({error}); download it again") from error
    pairs: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        names = line.split()
        if not names:
            continue
        if len(names) != 2:
            raise MissingDataError(f"{path}:{number}: expected `{form}`, found {line!r}")
        person, garment = map(name_of, names)
        if person in pairs:
            raise MissingDataError(f"{path}:{number}: {person} is there a second time; every person is expected once")
        pairs[person] = garment
    return list(pairs.items())


def read_phrases(path: Path) -> dict[str, list[str]] | None:
    """Garment -> phrases, None if the file is not there.

    Raises:
        MissingDataError: it has another shape.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MissingDataError(f"{path}: expected garment -> list of phrases ({error})") from error
    if not isinstance(content, dict):
        raise MissingDataError(f"{path}: expected garment -> list of phrases, found {type(content).__name__}")
    for garment, phrases in content.items():
        if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
            raise MissingDataError(f"{path}: expected garment -> list of phrases, found {garment} -> {str(phrases)[:80]}")
    return content
