"""What a later layer of settings replaces, it replaces whole: arguments of a model do not outlive its name.

Configs and options are laid over each other name by name, so that another ``name`` for the vision tower would keep the ``timm_kwargs``
that were meant for the one before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from unifashion_pl.configs import read_config

#: Argument that says which model it is -> the one that holds arguments for that model.
BELONGS = {"name": "timm_kwargs", "source": "config"}
#: Last parts of the places where :data:`BELONGS` holds, without jsonargparse's ``init_args``.
PLACES = ("vision", "language_model", "denoiser", "vae", "text_encoder")
Place = tuple[str, ...]


def drop_replaced(args: Sequence[str]) -> list[str]:
    """Arguments of the command line, configs among them, with a reset before each layer that names another model.

    A layer that brings arguments of its own lays them over the reset. What is dropped is said on stderr.
    """
    out: list[str] = []
    held: dict[Place, Any] = {}
    for layer in _layers(args):
        settings = dict(_settings(layer))
        for place, value in settings.items():
            owned = (*place[:-1], BELONGS.get(place[-1], ""))
            replaced = value is not None and place in held and held[place] != value
            if replaced and held.get(owned) and owned not in settings:
                said = f"{'.'.join(place)} is {value} now: {owned[-1]} {held[owned]} of {held[place]} are dropped"
                print(f"note: {said}", file=sys.stderr)
                out += emptied(owned)
                held[owned] = None
        gone = [place for place, value in settings.items() if value is None]
        held = {place: value for place, value in held.items() if not any(place[: len(g)] == g for g in gone)} | settings
        deep = len(gone) == 1 and layer[0].startswith("--model.") and len(gone[0]) > 2
        out += emptied(gone[0]) if deep else layer
    return out


def emptied(place: Sequence[str]) -> list[str]:
    """The layer that sets a place to null, as a config: as an option, jsonargparse takes null two classes deep for a word."""
    content: Any = None
    for name in reversed(place):
        content = {name: content}
    return ["--config", json.dumps(content)]


def _layers(args: Sequence[str]) -> Iterator[list[str]]:
    """Options with their values; what is no option stands alone."""
    rest = list(args)
    while rest:
        size = 2 if rest[0].startswith("--") and "=" not in rest[0] and len(rest) > 1 and not rest[1].startswith("--") else 1
        yield rest[:size]
        del rest[:size]


def _settings(layer: Sequence[str]) -> Iterator[tuple[Place, Any]]:
    """Those settings of a layer that :data:`BELONGS` is about, and what it sets to null."""
    option, _, value = layer[0].partition("=") if len(layer) == 1 else (layer[0], "", layer[1])
    if option == "--config" and value:
        yield from _flat((), read_config(value))
    elif option.startswith("--model"):
        place = tuple(part for part in option[2:].split(".") if part != "init_args")
        yield from _flat(place, _plain(value))


def _flat(place: Place, value: Any) -> Iterator[tuple[Place, Any]]:
    if (place and value is None) or (len(place) > 1 and place[-2] in PLACES and place[-1] in {*BELONGS, *BELONGS.values()}):
        yield place, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(place if name == "init_args" else (*place, str(name)), inner)


def _plain(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value
