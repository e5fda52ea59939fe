"""The command line: ``lightning``, ``unifashion`` and ``python -m unifashion_pl`` are this one program."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")


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
    known = sorted(str(p.name) for p in shipped.iterdir() if str(p.name).endswith(".yaml"))
    raise SystemExit(f"no config {name!r} in {Path.cwd()} nor among the shipped ones: {', '.join(known)}")


def resolve_configs(args: Sequence[str]) -> list[str]:
    """Replace the value of every ``--config`` (or ``-c``) by :func:`resolve_config` of it."""
    out: list[str] = []
    for arg in args:
        if out and out[-1] in ("--config", "-c"):
            out.append(resolve_config(arg))
        elif arg.startswith("--config="):
            out.append("--config=" + resolve_config(arg.removeprefix("--config=")))
        else:
            out.append(arg)
    return out


def _train(args: list[str]) -> None:
    from lightning.pytorch.cli import LightningCLI

    from unifashion_pl.module import UniFashionModule

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    LightningCLI(
        UniFashionModule,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        args=resolve_configs(args),
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: without the program's name; default ``sys.argv[1:]``.
    """
    argv = list(sys.argv[1:] if args is None else args)
    if argv and argv[0] in TRAINER_COMMANDS:
        _train(argv)
    else:
        from unifashion_pl.commands import run

        run(argv)


if __name__ == "__main__":
    main()
