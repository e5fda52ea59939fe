"""Which command it is, and what becomes of its errors."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
#: Set to anything, errors keep their traceback.
TRACEBACK = "UNIFASHION_TRACEBACK"
PACKAGE = Path(__file__).resolve().parents[1]


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: without the program's name; default ``sys.argv[1:]``.
    """
    argv = list(sys.argv[1:] if args is None else args)
    with notes(), sentences(argv[0] if argv else ""):
        if argv and argv[0] in TRAINER_COMMANDS:
            from unifashion_pl.cli.training import train

            train(argv)
        else:
            from unifashion_pl.commands import run

            run(argv)


@contextmanager
def sentences(command: str) -> Iterator[None]:
    """An error that a person can mend is one sentence and exit code 2; an error of the program keeps its traceback.

    The system's refusals (``OSError``) and what this library raises itself are for a person. What another library raises while a
    model trains may be a researcher's own mistake in code, so it stays whole. ``UNIFASHION_TRACEBACK=1`` shows everything.
    """
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
        mendable = command not in TRAINER_COMMANDS or isinstance(error, OSError) or raised_here(error)
        if os.environ.get(TRACEBACK) or not mendable:
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"unifashion {command}: {text}", file=sys.stderr)
        raise SystemExit(2) from error


@contextmanager
def notes() -> Iterator[None]:
    """Warnings that are for the user of a command are one line, without the place in the code."""
    from unifashion_pl.toy import ToyWarning

    usual = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        return f"note: {message}\n" if issubclass(category, ToyWarning) else usual(message, category, filename, lineno, line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual


def raised_here(error: BaseException) -> bool:
    """Whether an error comes from a line of this library, not from one that it called."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    place = Path(trace.tb_frame.f_code.co_filename).resolve()
    datamodules = sys.modules.get("unifashion_pl.datamodules")
    rooms = [PACKAGE, *(Path(p).resolve() for p in getattr(datamodules, "__path__", ()))]
    return any(place.is_relative_to(room) for room in rooms)
