"""Text and JSON that other people wrote, read strictly: every message names the file and the place in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")
#: Files of text and JSON beyond this are refused: the largest published one has 60 MB.
MAX_BYTES = 2 << 30


class FormatError(ValueError):
    """A file that is not what it should be; the message says which file, where in it, and what was expected."""


def read_text(path: str | Path) -> str:
    """UTF-8 text, with or without a byte order mark.

    Raises:
        FileNotFoundError: no such file.
        FormatError: not UTF-8, with the line; or too large.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise FormatError(f"{path} has {path.stat().st_size:,} bytes: expected a text file of at most {MAX_BYTES:,}")
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        found = "it is UTF-16" if wide else f"line {line} holds the byte 0x{data[error.start]:02x}"
        raise FormatError(f"{path} is not UTF-8 text: {found}; save it as UTF-8") from error


@overload
def read_json(path: str | Path, kind: type[T], what: str = ...) -> T: ...
@overload
def read_json(path: str | Path, kind: Any = ..., what: str = ...) -> Any: ...
def read_json(path: str | Path, kind: Any = Any, what: str = "") -> Any:
    """A JSON file as a value of a type, checked field by field.

    Args:
        kind: a dataclass, TypedDict, msgspec.Struct, or a type such as ``dict[str, list[str]]``.
        what: what the file should be, for messages, e.g. ``a shard index``.

    Raises:
        FileNotFoundError: no such file.
        FormatError: with the file and the field.
    """
    return from_json(read_text(path), kind, str(path), what)


def read_json_lines(path: str | Path, kind: Any = Any, what: str = "") -> Iterator[tuple[int, Any]]:
    """Numbers from 1 and values of the lines of a JSON Lines file; empty lines are passed over.

    Raises:
        FileNotFoundError: no such file.
        FormatError: with the file, the line and the field.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, from_json(line, kind, f"{path}:{number}", what)


def from_json(text: str | bytes, kind: Any = Any, where: str = "JSON", what: str = "") -> Any:
    """JSON as a value of a type; arguments and errors as in :func:`read_json`.

    >>> from_json('{"a": [1, 2]}', dict[str, list[int]])
    {'a': [1, 2]}
    >>> from_json('{"a": [1, "x"]}', dict[str, list[int]], "f.json")
    Traceback (most recent call last):
    ...
    unifashion_pl.reading.FormatError: f.json: Expected `int`, got `str` - at `$[...][1]`
    """
    expected = f" is not {what}" if what else ""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeError) as error:
        empty = "; the file is empty" if not text.strip() else ""
        raise FormatError(f"{where}{expected}: {error}{empty}") from error
    except RecursionError as error:
        raise FormatError(f"{where}{expected}: nested too deeply") from error
