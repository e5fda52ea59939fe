"""Which code and which weights are running."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from unifashion_pl.names import plain_state
from unifashion_pl.version import __version__

__all__ = ["__version__", "commit", "tensor_bytes", "weights_hash", "whole"]


@cache
def commit(folder: Path | None = None) -> str | None:
    """Git commit of a checkout (default: the one this library runs from), 12 digits and ``-dirty`` where tracked files were changed.

    None for an installed package, and where there is no git.
    """
    folder = Path(__file__).parents[2] if folder is None else folder
    if not (folder / ".git").exists():
        return None
    try:
        asked = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


class Stateful(Protocol):
    """Anything with parameters or buffers."""

    def state_dict(self) -> Mapping[str, Any]: ...


def weights_hash(module: Stateful, digits: int = 16) -> str:
    """SHA-256 over names, shapes, types and bytes of all parameters and persistent buffers, its first ``digits`` digits.

    Equal for a module that FSDP2 has sharded; every rank has to ask then.
    """
    digest = hashlib.sha256()
    for name, value in sorted(plain_state(module.state_dict()).items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(tensor_bytes(whole(value)))
    return digest.hexdigest()[:digits]


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP2 has sharded, gathered from all ranks (a collective); any other as it is."""
    gathered: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor of any type, row by row."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
