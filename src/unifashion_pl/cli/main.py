"""Which command it is, and what becomes of its errors."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType

from unifashion_pl.origin import is_ours, raised_here

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
#: Set to anything, errors keep their traceback.
TRACEBACK = "UNIFASHION_TRACEBACK"
#: Exit codes, as shells give them to programs that a signal ended.
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: without the program's name; default ``sys.argv[1:]``.
    """
    argv = list(sys.argv[1:] if args is None else args)
    if isinstance(sys.stdout, TextIOWrapper):  # names of files may have bytes that no encoding knows; stderr does so anyway
        sys.stdout.reconfigure(errors="backslashreplace")
    with notes(), sentences(argv[0] if argv else ""), signals():
        if argv and argv[0] in TRAINER_COMMANDS:
            from unifashion_pl.cli.training import train

            train(spelled(argv, "_"))
        else:
            from unifashion_pl.commands import run

            run(spelled(argv, "-"), argv)
        sys.stdout.flush()  # a reader that has gone is noticed here, not while Python ends


def spelled(argv: Sequence[str], sign: str) -> list[str]:
    """Arguments in which ``-`` and ``_`` inside the names of options are one sign: ``--max-bad`` and ``--max_bad`` are the same option.

    Names below another (``--data.some.name``) and what stands behind ``--`` are left as they are.

    >>> spelled(["index", "--max_bad=3", "--text", "a_b", "--", "--no_option"], "-")
    ['index', '--max-bad=3', '--text', 'a_b', '--', '--no_option']
    """
    end = argv.index("--") if "--" in argv else len(argv)
    names = [re.match(r"--[\w-]+(?=$|=)", arg) for arg in argv[:end]]
    return [
        *("--" + re.sub("[-_]", sign, name[0][2:]) + arg[name.end() :] if name else arg for name, arg in zip(names, argv)),
        *argv[end:],
    ]


@contextmanager
def sentences(command: str) -> Iterator[None]:
    """An error that a person can mend is one sentence and exit code 2; an error of the program keeps its traceback.

    The system's refusals (``OSError``) and what this library raises itself are for a person. What another library raises while a
    model trains may be a researcher's own mistake in code, so it stays whole. ``UNIFASHION_TRACEBACK=1`` shows everything. Ctrl-C ends
    with 130.
    """
    try:
        yield
    except BrokenPipeError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
        raise _ended(command, "nobody reads the output any more", 2) from error
    except KeyboardInterrupt as error:
        raise _ended(command, "interrupted", INTERRUPTED) from error
    except SystemExit as error:  # Lightning's 1, after it has ended its processes
        if isinstance(error.__context__, KeyboardInterrupt):
            raise SystemExit(INTERRUPTED) from error
        raise
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, ImportError) as error:
        mendable = command not in TRAINER_COMMANDS or isinstance(error, OSError) or raised_here(error)
        if os.environ.get(TRACEBACK) or not mendable:
            raise
        raise _ended(command, _text(error), 2) from error


@contextmanager
def signals() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that half files and worker processes go; exit code 143.

    While Lightning trains, its own handler ends all ranks after their step, by an exit that would say 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except SystemExit as error:
        if type(error).__name__ == "SIGTERMException":
            raise SystemExit(TERMINATED) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: FrameType | None) -> None:
    trainer = sys.modules.get("lightning.pytorch.trainer.connectors.signal_connector")
    if trainer is not None and isinstance(signal.getsignal(number), trainer._HandlersCompose):
        return  # Lightning has taken note
    raise SystemExit(TERMINATED)


def _ended(command: str, text: object, code: int) -> SystemExit:
    print(f"unifashion {command}: {text}", file=sys.stderr)
    return SystemExit(code)


def _text(error: Exception) -> object:
    if isinstance(error, KeyError) and error.args:
        return error.args[0]
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)!s}: {error.strerror}" if not isinstance(error.filename, int) else error.strerror
    return error


@contextmanager
def notes() -> Iterator[None]:
    """Warnings of this library are for the user of a command: one line, without the place in the code."""
    usual = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        own = issubclass(category, UserWarning) and is_ours(filename)
        return f"note: {message}\n" if own else usual(message, category, filename, lineno, line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual
