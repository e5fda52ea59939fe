"""A typed function as a command: parameters before ``*`` are positional arguments, those behind it options.

argparse parses. jsonargparse reads signatures too, but takes the text ``null`` for none, makes required options positional and flags
``{true,false}``, knows no ``*names``, and answers a wrong number with ten lines about unions.
"""

from __future__ import annotations

from argparse import ArgumentParser, HelpFormatter
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from inspect import getdoc, signature
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from unifashion_pl.files import check_writable

Command = Callable[..., int | None]
#: Annotations of places that a command writes: they are looked at before it begins.
FILE, FOLDER = {"writes": "file"}, {"writes": "folder"}


class LinesFormatter(HelpFormatter):
    """argparse's, with the line breaks that a help has."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return [line for part in text.split("\n") for line in super(LinesFormatter, self)._split_lines(part, width)]


def summary(command: Command) -> str:
    """The first line of a docstring, as it stands in a list of commands.

    >>> def caption(): "Describe images."
    >>> summary(caption)
    'describe images'
    """
    line = (getdoc(command) or "").partition("\n")[0].rstrip(".")
    return line if line[:2].isupper() else line[:1].lower() + line[1:]


def add_arguments(parser: ArgumentParser, command: Callable[..., Any]) -> None:
    """An argument for each parameter, and for each field of a parameter that is a dataclass.

    A type is a class that reads one word, ``Literal`` (choices), ``bool`` (a flag), ``list`` (an option that may be repeated), each of them
    or None. Beside it ``Annotated`` may hold the help, a dictionary of argparse's arguments (and ``flag``, the option's name), and a function
    that gives such a dictionary, so that what it needs is imported for this command alone.
    """
    for name, parameter in signature(command).parameters.items():
        kind, told = _told(command, name)
        if is_dataclass(kind):
            add_arguments(parser, kind)
            continue
        told.pop("writes", None)
        flag = told.pop("flag", f"--{name.replace('_', '-')}")
        if parameter.kind is parameter.VAR_POSITIONAL:
            told["nargs"] = "+"
        if parameter.kind is not parameter.KEYWORD_ONLY:
            parser.add_argument(name, **told)
        elif parameter.default is parameter.empty:
            parser.add_argument(flag, dest=name, required=True, **told)
        else:
            parser.add_argument(flag, dest=name, default=parameter.default, **told)


def _told(command: Callable[..., Any], name: str) -> tuple[type[Any], dict[str, Any]]:
    """A parameter's type, and what argparse is told of it."""
    hint = get_type_hints(command, include_extras=True)[name]
    told: dict[str, Any] = {}
    for note in getattr(hint, "__metadata__", ()):
        told |= {"help": note} if isinstance(note, str) else note() if callable(note) else note
    kind = get_type_hints(command)[name]
    kind = next((one for one in get_args(kind) if NoneType in get_args(kind) and one is not NoneType), kind)
    if "type" not in told:
        if kind is bool:
            told["action"] = "store_true"
        elif get_origin(kind) is Literal:
            told["choices"] = get_args(kind)
        elif get_origin(kind) is list:
            told |= {"action": "append", "type": get_args(kind)[0]}
        else:
            told["type"] = kind
    return kind, told


def call(command: Command, values: Mapping[str, Any]) -> int | None:
    """Call a command with the values of its arguments.

    Raises:
        WriteError: a place that it writes cannot be written.
    """
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for name, parameter in signature(command).parameters.items():
        kind, told = _told(command, name)
        value: Any = kind(**{f.name: values[f.name] for f in fields(kind)}) if is_dataclass(kind) else values[name]
        if "writes" in told and value is not None:
            check_writable(value, folder=told["writes"] == "folder")
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = value
        else:
            positional += value if parameter.kind is parameter.VAR_POSITIONAL else [value]
    return command(*positional, **named)
