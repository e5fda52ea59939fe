"""Text, JSON and YAML that other people wrote, read strictly: every message names the file and the place in it."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec
import yaml

from unifashion_pl.names import quoted

T = TypeVar("T")
#: Files of text and JSON beyond this are refused: the largest published one has 60 MB.
MAX_BYTES = 2 << 30
#: Characters of what a parser says, in a message.
LONGEST = 400
#: Values of a YAML file with its aliases written out; beyond this, aliases were made to exhaust memory.
MAX_VALUES = 100_000
#: Beginnings of files that people take for text.
NOT_TEXT = (
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"PK\x03\x04", "an Excel workbook or zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file"),
    (b"\x1f\x8b", "gzip"),
    (b"%PDF", "a PDF"),
)


class FormatError(ValueError):
    """A file that is not what it should be; the message says which file, where in it, and what was expected."""


def read_text(path: str | Path) -> str:
    """UTF-8 text, with or without byte order marks at its start (programs that do not know them write a second one).

    Raises:
        FileNotFoundError: no such file.
        FormatError: not UTF-8, with the line; too large; or a pipe or device.
    """
    path = Path(path)
    check_regular(path)
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FormatError(f"{path} has more than {MAX_BYTES:,} bytes, which is no text file that this library reads")
    for start, kind in NOT_TEXT:
        if data.startswith(start):
            raise FormatError(f"{path} is not UTF-8 text: it is {kind}; save it as UTF-8")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise FormatError(f"{path}:{line}: a NUL byte, which text does not have (is it UTF-16, or cut off?); save it as UTF-8")
    try:
        return data.decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise FormatError(_not_utf8(path, data, error.start)) from error


def check_regular(path: Path) -> None:
    """Refuse pipes, sockets and devices, which may keep their reader waiting for ever; files, folders and absent ones pass.

    Raises:
        FormatError: it is one.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it says why
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise FormatError(f"{path} is a device or a pipe, not a file: save its content in a file")


def digest(path: Path, seen: Callable[[int], Any] = int) -> str:
    """SHA-256 of a file, 64 digits; ``seen`` is told how many bytes each block has."""
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            hasher.update(block)
            seen(len(block))
    return hasher.hexdigest()


def _not_utf8(path: Path, data: bytes, place: int) -> str:
    line = data.count(b"\n", 0, place) + 1
    shown = data[max(place - 20, data.rfind(b"\n", 0, place) + 1) : place + 20].split(b"\n")[0]
    guess = shown.decode("cp1252", errors="replace").strip()
    return (
        f"{path}:{line}: not UTF-8 text (byte 0x{data[place]:02x}); in Windows-1252 or Latin-1 it would read {guess!r}. "
        "Save it as UTF-8"
    )


def text_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Numbers from 1 and lines of a text file, whatever system ended them; empty ones are passed over.

    Only line feeds and carriage returns end a line: ``str.splitlines`` also cuts at characters that stand inside of texts.
    """
    for number, line in enumerate(re.split(r"\r\n|\n|\r", read_text(path)), 1):
        if line.strip():
            yield number, line


def is_inside(name: str) -> bool:
    """Whether a path that a foreign file names stays in the folder that it is relative to, on every system.

    >>> [is_inside(name) for name in ("a/b.jpg", "../b.jpg", "/etc/passwd", "C:\\\\b.jpg", "a/../../b.jpg")]
    [True, False, False, False, False]
    """
    parts = re.split(r"[/\\]", name)
    return bool(parts[0]) and not re.match(r"[A-Za-z]:", name) and ".." not in parts and "\0" not in name


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
    with _named(where, what, "; the file is empty" if not text.strip() else ""):
        data = text.encode() if isinstance(text, str) else text  # msgspec takes no subclasses of str, as Pillow's texts are
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError as error:
            raise _with_value(error, lambda: msgspec.json.decode(data)) from error


def converted(value: Any, kind: Any, where: str, what: str = "") -> Any:
    """Plain values of JSON or YAML as a value of a type; arguments and errors as in :func:`read_json`."""
    with _named(where, what):
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise _with_value(error, lambda: value) from error


def _with_value(error: msgspec.ValidationError, load: Callable[[], Any]) -> msgspec.ValidationError:
    """The same with what was found, which msgspec leaves out where a number or a length is beyond its bounds; ``load`` gives the whole value.

    >>> str(_with_value(msgspec.ValidationError("Expected `int` >= 1 - at `$.k[1]`"), lambda: {"k": [3, 0]}))
    'Expected `int` >= 1, got 0 - at `$.k[1]`'
    """
    bounds = re.fullmatch(r"(Expected `[^`]*` (?:of length )?[<>]=? \S+)( - at `\$((?:\.\w+|\[\d+\])*)`)", str(error))
    if bounds is None:
        return error
    value = load()
    for name, place in re.findall(r"\.(\w+)|\[(\d+)\]", bounds[3]):
        try:
            value = value[name or int(place)]
        except (LookupError, TypeError):  # a field that is written under another name
            return error
    return msgspec.ValidationError(f"{bounds[1]}, got {quoted(value, 60)}{bounds[2]}")


@contextmanager
def _named(where: str, what: str, addition: str = "") -> Iterator[None]:
    """What a parser raises becomes a sentence about the file."""
    expected = f"{where} is not {what}" if what else where
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = expected if mark is None else expected.replace(where, f"{where}:{mark.line + 1}", 1)
        raise FormatError(f"{place}: {error.problem or error.context}") from error
    except (msgspec.MsgspecError, yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        if len(said) > LONGEST:  # it quotes what was written; the place stands at its end
            said = f"{said[: LONGEST // 2]} … {said[-LONGEST // 2 :]}"
        raise FormatError(f"{expected}: {said}{addition}") from error


def read_yaml(path: str | Path, kind: Any = Any, what: str = "") -> Any:
    """A YAML file of plain values, as a value of a type; no tag of it makes anything, keys become text.

    Raises:
        FileNotFoundError: no such file.
        FormatError: with the file and the line or field; or aliases that refer to themselves or grow beyond :data:`MAX_VALUES`.
    """
    return from_yaml(read_text(path), kind, str(path), what)


def from_yaml(text: str, kind: Any = Any, where: str = "YAML", what: str = "") -> Any:
    """YAML as a value of a type; arguments and errors as in :func:`read_yaml`."""
    with _named(where, what):
        plain = _written_out(yaml.safe_load(text), [MAX_VALUES])
    return converted(plain, kind, where, what)


def _written_out(value: Any, left: list[int]) -> Any:
    """A tree of its own, so that a small file of aliases is as large as it says; ``left`` counts down."""
    left[0] -= 1 + (len(value) // 64 if isinstance(value, str | bytes) else 0)
    if left[0] < 0:
        raise ValueError(f"its aliases stand for more than {MAX_VALUES:,} values")
    if isinstance(value, dict):
        return {str(key): _written_out(item, left) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        items = sorted(value, key=str) if isinstance(value, set) else value
        return [_written_out(item, left) for item in items]
    return value
