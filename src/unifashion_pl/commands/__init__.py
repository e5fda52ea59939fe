"""Commands beside training: functions whose signatures are their command lines (:mod:`unifashion_pl.commands.signature`)."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

from unifashion_pl.commands import demo, export, paint, runs, serve
from unifashion_pl.commands.signature import Command, LinesFormatter, add_arguments, call, summary

EPILOG = (
    "fit, validate, test, predict: LightningCLI commands, e.g. `unifashion fit --config phase2.yaml`; each has its own --help."
)


def _data() -> tuple[Command, ...]:
    from unifashion_pl.commands import data

    return data.wardrobe, data.check, data.shards, data.annotate, data.features, data.latents


def _index() -> tuple[Command, ...]:
    from unifashion_pl.commands import index

    return (
        index.build,
        index.embed,
        index.add,
        index.remove,
        index.search,
        index.calibrate,
        index.check,
        index.export,
        index.push,
    )


def _weights() -> tuple[Command, ...]:
    from unifashion_pl.commands import weights

    return weights.list_, weights.check, weights.import_


#: Commands in the order of ``--help``: functions, or a group's name, what it is for, and what gives its functions.
COMMANDS: tuple[Command | tuple[str, str, Callable[[], tuple[Command, ...]]], ...] = (
    ("data", "the toy wardrobe, dataset checks, shards", _data),
    ("index", "search your own catalogue", _index),
    serve.serve,
    *(paint.caption, paint.generate, paint.tryon, paint.design, demo.demo, runs.adapt, export.export, runs.report),
    ("weights", "published checkpoints: list, check, import", _weights),
    *(runs.ablations, runs.parameters, runs.doctor),
)


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The parser of all commands. Only what ``argv`` names is imported and has its arguments.

    Options are named in full: what is an abbreviation today may be another option tomorrow.
    """
    description = "UniFashion as a Lightning library."
    top = ArgumentParser(prog="unifashion", description=description, epilog=EPILOG, allow_abbrev=False)
    _add(top, COMMANDS, [*argv], "COMMAND")
    return top


def _add(parent: ArgumentParser, commands: Sequence[Any], argv: list[str], metavar: str) -> None:
    choices = parent.add_subparsers(dest=metavar, metavar=metavar)
    parent.set_defaults(unfinished=parent)
    for command in commands:
        name, said, actions = command if isinstance(command, tuple) else (command.__name__.rstrip("_"), summary(command), None)
        chosen = choices.add_parser(name, help=said, allow_abbrev=False, formatter_class=LinesFormatter)
        if argv[:1] == [name] and actions:
            _add(chosen, actions(), argv[1:], "ACTION")
        elif argv[:1] == [name]:
            add_arguments(chosen, command)
            chosen.set_defaults(command=command, unfinished=None)


def run(argv: Sequence[str], typed: Sequence[str] = ()) -> None:
    """Parse, run and exit with the command's status; :func:`unifashion_pl.cli.main.sentences` turns errors into sentences.

    Without a command, or with a group's name alone, the list of those that there are stands on stderr, and the status is 2.

    Args:
        typed: the same arguments as a person spelled them, for messages.
    """
    top = parser(argv)
    found, left = top.parse_known_args(argv)
    if left:
        spelling = dict(zip(argv, typed))
        top.error(f"unrecognized arguments: {' '.join(spelling.get(arg, arg) for arg in left)}")
    values = vars(found)
    if values["unfinished"]:
        values["unfinished"].print_help(sys.stderr)
        raise SystemExit(2)
    if status := call(values["command"], values):
        raise SystemExit(status)
