"""The command line: ``lightning``, ``unifashion`` and ``python -m unifashion_pl`` are this one program."""

from unifashion_pl.cli.main import main

__all__ = ["main"]
