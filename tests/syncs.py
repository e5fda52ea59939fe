"""Operations for which the host waits until a GPU has done all before them, refused on torch's fake CUDA tensors and in real steps on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
#: What asks a device for values, or has a shape that follows from them.
ASKING = {
    *(aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select),
    *(aten._unique2, aten.unique_dim),
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index_put}


class NoSyncs(TorchDispatchMode):
    """Inside, what waits for a GPU is an error: values that are asked for, copies between host and GPU that are waited for, rows of a tensor there
    that are named here, or by a mask.

    Enter it behind ``FakeTensorMode``, which refuses some of these by itself, or around a step on the CPU.

    Args:
        anywhere: the CPU's values may not be asked for either: a real step stands for one on a GPU.

    Raises:
        AssertionError: with the operation.
    """

    def __init__(self, *, anywhere: bool = False) -> None:
        super().__init__()
        self.anywhere = anywhere

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket
        places = {x.device.type for x in args if isinstance(x, Tensor)}
        if self.anywhere or "cuda" in places:
            assert name not in ASKING, f"{func} asks the GPU for a value"
        if name is aten.multinomial and (self.anywhere or "cuda" in places):
            many = len(args) > 2 and args[2] and args[1] > 1
            assert many, (
                f"{func} asks the GPU whether weights are valid: torch does so unless several are drawn with replacement"
            )
        if name is aten._to_copy:
            places.add(torch.device(kwargs["device"]).type if kwargs.get("device") is not None else args[0].device.type)
            assert len(places) == 1 or kwargs.get("non_blocking"), (
                f"{func} is waited for: {args[0].device} -> {kwargs['device']}"
            )
        if name is aten.copy_:
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            assert len(places) == 1 or not waits, f"{func} is waited for: {args[1].device} -> {args[0].device}"
        if name in INDEXING and (self.anywhere or args[0].device.type == "cuda"):
            named = [index for index in args[1] if index is not None]
            assert all(index.device == args[0].device for index in named), f"{func} takes its rows from the host"
            assert all(index.dtype not in (torch.bool, torch.uint8) for index in named), (
                f"{func} asks the GPU how many rows are True"
            )
        return func(*args, **kwargs)
