"""Configs by bare name: beside the user, else among the shipped ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from unifashion_pl.reading import from_yaml, read_yaml, text_lines

EXTENDS = re.compile(r"#\s*extends:(.*)")


def resolve_config(name: str) -> str:
    """A config's path: as given if it exists, else a file of that name among the shipped configs.

    Raises:
        SystemExit: neither exists, with the names that do.
    """
    if Path(name).exists() or name.lstrip().startswith("{"):
        return name
    shipped = files("unifashion_pl.configs")
    candidate = shipped / name
    if candidate.is_file():
        return str(candidate)
    known = [
        f"{prefix}{name}"
        for folder, prefix in ((shipped, ""), (shipped / "ablations", "ablations/"))
        for name in sorted(str(p.name) for p in folder.iterdir())
        if name.endswith(".yaml")
    ]
    raise SystemExit(f"no config {name!r} in {Path.cwd()} nor among the shipped ones: {', '.join(known)}")


def config_chain(name: str, above: tuple[Path, ...] = ()) -> list[str]:
    """A config's path behind those that it extends: ``# extends: tiny.yaml`` above its content names the config that it lies over.

    It is looked up beside the config, then as every name; a config of its own name is the shipped one, which it adapts.

    Args:
        above: configs that extend this one.

    Raises:
        SystemExit: a config that does not exist, or names none that it extends.
        FormatError: a file that is not UTF-8 text.
    """
    path = resolve_config(name)
    if not Path(path).is_file():
        return [path]
    base, chain = _base(path), (*above, Path(path).resolve())
    if base is None:
        return [path]
    places = [Path(path).parent / base, Path(base), Path(str(files("unifashion_pl.configs"))) / base]
    there = next((place for place in places if place.is_file() and place.resolve() not in chain), None)
    if there is None and any(place.is_file() for place in places):
        raise SystemExit(f"configs {', '.join(p.name for p in chain)} extend each other")
    return [*config_chain(base if there is None else str(there), chain), path]


def _base(path: str) -> str | None:
    """The config that the comments at a config's head say it extends."""
    for number, line in text_lines(path):
        if not line.startswith("#"):
            return None
        if found := EXTENDS.match(line):
            if not found[1].strip():
                raise SystemExit(f"{path}:{number}: expected the name of a config behind {line.strip()!r}")
            return found[1].strip()
    return None


def resolve_configs(args: Sequence[str]) -> list[str]:
    """The command, every ``--config`` (or ``-c``) with its :func:`config_chain`, then all other options.

    Options come last, so that what is said on the command line holds whether it stands before or behind a config.
    """
    configs: list[str] = []
    others: list[str] = []
    pending = False
    for arg in args:
        if pending or arg.startswith("--config="):
            configs += [part for name in config_chain(arg.removeprefix("--config=")) for part in ("--config", name)]
            pending = False
        elif arg in ("--config", "-c"):
            pending = True
        else:
            others.append(arg)
    return [*others[:1], *configs, *others[1:], *(["--config"] if pending else [])]


def nulls(args: Sequence[str], section: str = "model") -> set[str]:
    """Names of a section that the last config that names them sets to null.

    Args:
        args: as :func:`resolve_configs` returns them.
    """
    last: dict[str, object] = {}
    for option, name in pairwise(args):
        if option == "--config":
            inline = name.lstrip().startswith("{")
            content = from_yaml(name, Any, "--config") if inline else read_yaml(name, Any, "a config")
            named = content.get(section) if isinstance(content, dict) else None
            last |= named if isinstance(named, dict) else {}
    return {key for key, value in last.items() if value is None}


def with_config(args: Sequence[str], config: str) -> list[str]:
    """Arguments of :func:`resolve_configs` with one more config, behind all that there are and before the options."""
    end = next((i for i in range(1, len(args), 2) if args[i] != "--config"), len(args))
    return [*args[:end], "--config", config, *args[end:]]
