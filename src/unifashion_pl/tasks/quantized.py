"""The frozen base of a decoder in four or eight bits, under LoRA adapters in full precision (QLoRA, arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import nn

from unifashion_pl import arguments

Quantized = Literal["nf4", "int8"]
#: Attribute by which transformers and peft know a model of a kind.
MARKS: dict[Quantized, str] = {"nf4": "is_loaded_in_4bit", "int8": "is_loaded_in_8bit"}


def quantize(model: Any, kind: Quantized, dtype: torch.dtype) -> None:
    """Replace the linear layers of a frozen transformers model, but for its output head, by quantised ones of the same weights, in place.

    Embeddings, norms and the head stay as they are. Gradients pass through to what lies before; the weights themselves cannot train.

    Args:
        kind: ``nf4``: four bits, blocks of 64 with a scale each; ``int8``: eight bits with a scale a row, the activations too.
        dtype: that ``nf4`` computes in.

    Raises:
        ImportError: bitsandbytes is absent.
        ValueError: an unknown kind, or a model without linear layers (GPT-2 has none).
    """
    arguments.choice(kind, "quantize", get_args(Quantized))
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"quantize={kind!r} needs the package bitsandbytes: pip install 'unifashion-pl[quantized]', or leave quantize out"
        ) from error
    head = model.get_output_embeddings()
    found = [(name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear and layer is not head]
    if not found:
        raise ValueError(f"a {type(model).__name__} has no linear layers that could be quantised: leave quantize out")
    for name, layer in found:
        model.set_submodule(name, _small(layer, kind, dtype))
    setattr(model, MARKS[kind], True)


def _small(layer: nn.Linear, kind: Quantized, dtype: torch.dtype) -> nn.Module:
    from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    sizes, has_bias = (layer.in_features, layer.out_features), layer.bias is not None
    weight = layer.weight.data.clone()
    made: Any
    with torch.device("meta"):
        if kind == "nf4":
            made = Linear4bit(*sizes, bias=has_bias, compute_dtype=dtype, compress_statistics=False, quant_type="nf4")
        else:
            made = Linear8bitLt(*sizes, bias=has_bias, has_fp16_weights=False)
    if kind == "nf4":
        made.weight = Params4bit(weight, requires_grad=False, compress_statistics=False, quant_type="nf4", module=made)
    else:
        made.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    made.bias = None if layer.bias is None else nn.Parameter(layer.bias.data.clone(), requires_grad=False)
    return made.to(weight.device).train(layer.training)


def leave_base_out(module: nn.Module) -> None:
    """Let a module's state lack its quantised layers: they come from the published source, in another form than a state is loaded in."""

    def drop(owner: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        inside = tuple(f"{prefix}{name}." for name in quantized_layers(owner))
        for name in [name for name in state if name.startswith(inside)]:
            del state[name]

    def spare(owner: nn.Module, incompatible: Any) -> None:
        inside = tuple(f"{name}." for name in quantized_layers(owner))
        incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if not _below(name, inside)]

    module.register_state_dict_post_hook(drop)
    module.register_load_state_dict_post_hook(spare)


def _below(name: str, inside: tuple[str, ...]) -> bool:
    return any(name.startswith(place) or f".{place}" in name for place in inside)


def quantized_layers(module: nn.Module) -> list[str]:
    """Names of a module's quantised layers."""
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    kinds = (Linear4bit, Linear8bitLt)
    return [name for name, layer in module.named_modules() if isinstance(layer, kinds)]
