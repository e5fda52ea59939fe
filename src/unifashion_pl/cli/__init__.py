"""The command line: ``lightning``, ``unifashion`` and ``python -m unifashion_pl`` are this one program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unifashion_pl.cli.main import main

if TYPE_CHECKING:
    from unifashion_pl.cli.training import UniFashionCLI

__all__ = ["UniFashionCLI", "main"]


def __getattr__(name: str) -> Any:
    """``UniFashionCLI``, whose import takes seconds that other commands need not wait for."""
    if name != "UniFashionCLI":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unifashion_pl.cli.training import UniFashionCLI

    return UniFashionCLI
