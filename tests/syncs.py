"""Operations for which the host waits until a GPU has done all before them, refused on torch's fake CUDA tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
#: What asks a device for values; fake tensors refuse these by themselves.
ASKING = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten._unique2.default)


class NoSyncs(TorchDispatchMode):
    """Inside, what waits for a GPU is an error: values that are asked for, copies between host and GPU that are waited for, rows of a tensor there
    that are named here.

    Enter it behind ``FakeTensorMode``.

    Raises:
        AssertionError: with the operation.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        places = {x.device.type for x in args if isinstance(x, Tensor)}
        if "cuda" in places:
            assert func not in ASKING, f"{func} asks the GPU for a value"
        if func is aten._to_copy.default:
            places.add(torch.device(kwargs["device"]).type if kwargs.get("device") is not None else args[0].device.type)
            assert len(places) == 1 or kwargs.get("non_blocking"), (
                f"{func} is waited for: {args[0].device} -> {kwargs['device']}"
            )
        if func is aten.copy_.default:
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            assert len(places) == 1 or not waits, f"{func} is waited for: {args[1].device} -> {args[0].device}"
        if func is aten.index.Tensor and args[0].device.type == "cuda":
            named = [index for index in args[1] if index is not None]
            assert all(index.device.type == "cuda" for index in named), f"{func} takes its rows from the host"
            assert all(index.dtype != torch.bool for index in named), f"{func} asks the GPU how many rows are True"
        return func(*args, **kwargs)
