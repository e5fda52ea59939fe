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
    """Evaluation mode inside, every submodule's own mode restored after.

    A model that is in evaluation mode already is looked at and not touched: setting an attribute of a module, and PyTorch's walk, which makes up
    names, took longer than a short text's pass.
    """
    parts = _parts_of(modules)
    modes = [part.training for part in parts]
    for part, mode in zip(parts, modes):
        if mode:
            part.training = False
    try:
        yield
    finally:
        for part, mode in zip(parts, modes):
            if part.training is not mode:
                part.training = mode


def _parts_of(modules: tuple[Parts, ...]) -> list[nn.Module]:
    """Every module once, as :meth:`torch.nn.Module.modules` has them, in another order and without names."""
    pending = [part for whole in modules for part in ([whole] if isinstance(whole, nn.Module) else whole.modules())]
    seen: dict[int, nn.Module] = {}
    while pending:
        part = pending.pop()
        if id(part) not in seen:
            seen[id(part)] = part
            pending.extend(child for child in part._modules.values() if child is not None)
    return list(seen.values())
