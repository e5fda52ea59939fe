"""The command line: ``lightning``, ``unifashion`` and ``python -m unifashion_pl`` are this one program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unifashion_pl.cli.main import main
from unifashion_pl.lazy import on_first_use

if TYPE_CHECKING:
    from unifashion_pl.cli.training import UniFashionCLI

__all__ = ["UniFashionCLI", "main"]
__getattr__ = on_first_use(__name__, {"training": ("UniFashionCLI",)})
