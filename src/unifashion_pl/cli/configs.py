"""Configs by bare name: beside the user, else among the shipped ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from unifashion_pl.reading import text_lines

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
    """Replace the value of every ``--config`` (or ``-c``) by its :func:`config_chain`."""
    out: list[str] = []
    for arg in args:
        if out and out[-1] in ("--config", "-c"):
            out.pop()
            names = config_chain(arg)
        elif arg.startswith("--config="):
            names = config_chain(arg.removeprefix("--config="))
        else:
            out.append(arg)
            continue
        for name in names:
            out += ["--config", name]
    return out
