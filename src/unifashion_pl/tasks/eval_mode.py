"""Evaluation mode for the time of a generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import nn


class Parts(Protocol):
    """Anything that knows its modules."""

    def modules(self) -> Iterator[nn.Module]: ...


@contextmanager
def evaluating(*modules: Parts) -> Iterator[None]:
    """Evaluation mode inside, every submodule's own mode restored after."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
