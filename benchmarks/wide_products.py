"""Products of bfloat16 on processors that have no instructions for them: torch's fallback is some 200 times slower than float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_ATEN = torch.ops.aten
_ATTENTION = _ATEN._scaled_dot_product_flash_attention_for_cpu
PRODUCTS = frozenset(
    overload
    for packet in (
        _ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm, _ATEN.convolution, _ATEN.convolution_backward, _ATTENTION,
        _ATEN._scaled_dot_product_flash_attention_for_cpu_backward,
    )
    for overload in [packet.default]
)  # fmt: skip


class WideProducts(TorchDispatchMode):
    """Inside, products of bfloat16 tensors, forwards and backwards, are computed in float32 and rounded to bfloat16 once, as processors
    with such instructions do it. Weights stay bfloat16 in memory; one of them at a time has a float32 copy."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or not any(isinstance(a, Tensor) and a.dtype == torch.bfloat16 for a in args):
            return func(*args, **kwargs)
        wide = tree_map_only(Tensor, lambda t: t.float() if t.dtype == torch.bfloat16 else t, (args, kwargs))
        found = func(*wide[0], **wide[1])
        if func is _ATTENTION.default:  # its second result, logsumexp, is float32 anyway
            return found[0].bfloat16(), *found[1:]
        return tree_map_only(Tensor, lambda t: t.bfloat16() if t.dtype == torch.float32 else t, found)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16 that torch uses."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def wide_products() -> AbstractContextManager[Any]:
    """:class:`WideProducts` where the processor needs it."""
    return nullcontext() if multiplies_bfloat16() else WideProducts()
