"""Names of a package that are imported on first use, because their modules take seconds to import."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def on_first_use(package: str, places: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Args:
        package: its ``__name__``.
        places: module inside of it -> names that it has.

    >>> on_first_use("unifashion_pl", {"version": ["__version__"]})("nothing")
    Traceback (most recent call last):
    AttributeError: module 'unifashion_pl' has no attribute 'nothing'
    """

    def found(name: str) -> Any:
        for module, names in places.items():
            if name in names:
                with _uncollected():
                    return getattr(import_module(f"{package}.{module}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return found


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: what imports make stays, and looking through it again and again takes a sixth of their time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
