"""Memory while weights are loaded: files are mapped, and what was copied out of one does not stay; modules get memory when it is written.

A mapped file takes memory page by page as it is read. Without more, loading a model would hold it twice, in its own memory and in the file's
pages. The optimiser's states of a checkpoint, which lie in the same file, are never read.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

M = TypeVar("M", bound=nn.Module)
#: Files that this library has mapped.
_files: set[str] = set()
#: Of ``madvise``: the pages may go, and are read from the file again if they are asked for.
DONTNEED = 4


def remember(path: str | Path) -> None:
    """A file that was mapped privately, and whose tensors are not written to."""
    _files.add(str(Path(path).resolve()))


class Pages:
    """Where mapped files lie in this process' memory just now, to give their pages back. Elsewhere than on Linux nothing is given back."""

    def __init__(self) -> None:
        self._ranges = [] if sys.platform != "linux" else _ranges()
        self._advise = ctypes.CDLL(None, use_errno=True).madvise if self._ranges else None

    def drop(self, tensor: Tensor) -> None:
        """Give the memory of a tensor back, if it lies in a mapped file; its values are read again whenever it is used."""
        first = tensor.data_ptr()
        end = next((end for start, end in self._ranges if start <= first < end), None)
        if self._advise is None or end is None or not tensor.is_contiguous():
            return
        start = first // mmap.PAGESIZE * mmap.PAGESIZE
        self._advise(ctypes.c_void_p(start), ctypes.c_size_t(min(end, first + tensor.nbytes) - start), DONTNEED)


def _ranges() -> list[tuple[int, int]]:
    found = []
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            places, _, rest = line.partition(" ")
            if rest.rstrip("\n").split(maxsplit=4)[-1] in _files and rest[3] == "p":
                first, last = (int(place, 16) for place in places.split("-"))
                found.append((first, last))
    return found


@torch.no_grad()
def taken(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy a state into a model, tensor by tensor, giving each one's pages back.

    Returns:
        The state with the model's own tensors in place of those that were copied, for ``load_state_dict``, which compares names and runs the
        modules' hooks. Tensors of other shapes, and sharded ones, are as they were.
    """
    pages, own = Pages(), model.state_dict()
    out = dict(state)
    for name, tensor in state.items():
        target = own.get(name)
        if type(target) is Tensor and not target.is_meta and target.shape == tensor.shape and target is not tensor:
            target.copy_(tensor)
            pages.drop(tensor)
            out[name] = target
    return out


def unfilled(build: Callable[[], M], dtype: torch.dtype | None = None) -> M:
    """A module whose parameters a file will fill: zeros of which the system gives memory as they are written; buffers are computed as ever.

    No random numbers are drawn, and nothing is held in another type on the way.

    Args:
        dtype: of the parameters and of floating-point buffers; None = as they are built.
    """
    here = threading.get_ident()

    def shapes(_: nn.Module, __: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or threading.get_ident() != here:
            return parameter
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(shapes)  # type: ignore[arg-type]
    try:
        module = build()
    finally:
        handle.remove()
    if dtype is not None:
        nn.Module.to(module, dtype)
    made: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None and parameter.is_meta:
                if id(parameter) not in made:
                    zeros = torch.zeros(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = nn.Parameter(zeros, requires_grad=parameter.requires_grad)
                owner._parameters[name] = made[id(parameter)]
    return module
