"""Commands beside training: one module a command, each with ``add(commands)``, which adds its parser and sets its ``handler``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

#: Modules of this package that add a command, in the order of ``--help``.
MODULES = ("data", "index", "caption", "paint", "report", "weights", "ablations", "parameters", "doctor")

EPILOG = (
    "fit, validate, test, predict: LightningCLI commands, e.g. `unifashion fit --config phase2.yaml`; each has its own --help."
)


class Parser(argparse.ArgumentParser):
    """argparse's, with options named in full: what is an abbreviation today may be another option tomorrow."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; a parsed command carries its ``handler``."""
    top = Parser(prog="unifashion", description="UniFashion as a Lightning library.", epilog=EPILOG)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in MODULES:
        import_module(f"{__name__}.{name}").add(commands)
    return top


def run(argv: Sequence[str]) -> None:
    """Parse, run and exit with the command's status; :func:`unifashion_pl.cli.main.sentences` turns errors into sentences."""
    args = parser().parse_args(argv)
    if status := args.handler(args):
        raise SystemExit(status)
