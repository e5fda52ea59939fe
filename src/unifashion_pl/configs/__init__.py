"""Configs by name: a file beside the user, else one of those shipped here; and what several of them say together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unifashion_pl.reading import FormatError, converted, from_yaml, read_yaml, text_lines

SHIPPED = Path(__file__).parent
#: What older versions took for the name of a config that lies below.
EXTENDS = re.compile(r"#\s*extends:\s*(\S.*)")


def resolve_config(name: str) -> str:
    """A config's path: as given if it exists, else a file of that name among the shipped configs. What begins with ``{`` is a config itself.

    Raises:
        SystemExit: neither exists, with the names that do.
        FormatError: it says in a comment what it extends, which was read once; with what to do instead.
    """
    if name.lstrip().startswith("{"):
        return name
    path = Path(name) if Path(name).exists() else SHIPPED / name
    if not path.exists():
        known = sorted(shipped.relative_to(SHIPPED).as_posix() for shipped in SHIPPED.rglob("*.yaml"))
        raise SystemExit(f"no config {name!r} in {Path.cwd()} nor among the shipped ones: {', '.join(known)}")
    if path.is_file():
        _extends_nothing(path)
    return str(path)


def _extends_nothing(path: Path) -> None:
    for number, line in text_lines(path):
        if not line.startswith("#"):
            return
        if found := EXTENDS.match(line):
            base = found[1].strip()
            below = _below(path, base)
            raise FormatError(
                f"{path}:{number}: a comment names no config to start from any more. Delete `{line.strip()}`, and name both configs, "
                f"in this order: --config {below} --config {path}"
            )


def _below(path: Path, base: str) -> str:
    """What a config that extended ``base`` lay over: a file beside it, else the one that the name means now, but never itself."""
    beside = path.parent / base
    if beside.is_file() and not beside.samefile(path):
        return str(beside)
    itself = Path(base).is_file() and Path(base).samefile(path)
    return str(SHIPPED / base) if itself else base


def read_config(name: str | Path) -> dict[str, Any]:
    """The content of a config that :func:`resolve_config` finds; nothing of an empty one.

    Raises:
        SystemExit, FormatError: as there; or it is no YAML of settings by name.
    """
    place = resolve_config(str(name))
    inline = place.lstrip().startswith("{")
    content = from_yaml(place, Any, "--config", "a config") if inline else read_yaml(place, Any, "a config")
    return converted({} if content is None else content, dict[str, Any], "--config" if inline else place, "a config")


def merged(configs: Iterable[str | Path]) -> dict[str, Any]:
    """Contents of configs laid over each other, without checking them: arguments of a class do not outlive its name.

    Training, which knows classes and types, differs in two ways: another class takes over those arguments that it has itself, and a
    dictionary that is one value (``tasks: {tryon: 1.0}``) replaces the one below. ``unifashion fit … --print_config`` says what holds.

    >>> merged(['{"a": {"class_path": "A", "init_args": {"x": 1}}}', '{"a": {"init_args": {"y": 2}}}'])
    {'a': {'class_path': 'A', 'init_args': {'x': 1, 'y': 2}}}
    >>> merged(['{"a": {"class_path": "A", "init_args": {"x": 1}}}', '{"a": {"class_path": "B"}}'])
    {'a': {'class_path': 'B'}}

    Raises:
        SystemExit, FormatError: as :func:`read_config`.
    """
    out: dict[str, Any] = {}
    for name in configs:
        out = _over(out, read_config(name))
    return out


def _over(low: Any, high: Any) -> Any:
    if not (isinstance(low, dict) and isinstance(high, dict)):
        return high
    if low.get("class_path", high.get("class_path")) != high.get("class_path", low.get("class_path")):
        return high
    return {**low, **{key: _over(low.get(key), value) for key, value in high.items()}}
