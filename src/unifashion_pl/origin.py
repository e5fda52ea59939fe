"""Whose line it is: this library's, or that of one that it calls."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def raised_here(error: BaseException) -> bool:
    """Whether an error comes from a line of this library, not from one that it called."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return is_ours(trace.tb_frame.f_code.co_filename)


def is_ours(filename: str) -> bool:
    """Whether a source file is one of this library's."""
    place = Path(filename).resolve()
    datamodules = sys.modules.get("unifashion_pl.datamodules")
    rooms = [PACKAGE, *(Path(p).resolve() for p in getattr(datamodules, "__path__", ()))]
    return any(place.is_relative_to(room) for room in rooms)
