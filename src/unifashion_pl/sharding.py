"""FSDP2: parameters, gradients and optimiser states sharded over ranks, block by block."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from unifashion_pl.freezing import left_out
from unifashion_pl.names import plain_state

#: Methods through which Lightning enters the module.
ENTRIES = ("training_step", "validation_step", "test_step", "predict_step")


def blocks_of(model: nn.Module, named: Collection[str] | None = None) -> Iterator[nn.Module]:
    """The modules that are unsharded and resharded one at a time: the outermost that a model names in ``_no_split_modules``.

    It is the attribute by which models of transformers and diffusers tell what must stay on one device. Parts of this library that call
    a model's inner modules themselves name their own; the outermost holder of the attribute speaks for all within.

    Args:
        named: by a module around this one.
    """
    names = getattr(model, "_no_split_modules", None) if named is None else named
    for child in model.children():
        if type(child).__name__ in (names or ()):
            yield child
        else:
            yield from blocks_of(child, names)


def shard(model: nn.Module, mesh: DeviceMesh, precision: torch.dtype | None = None) -> None:
    """Shard every block and then what is left; in place, before the optimiser is built.

    FSDP2 keeps each parameter for itself, so that frozen and trainable ones, and several types, may share a block. It refuses scalars
    (the temperature): those stay whole on every rank and their gradients are averaged here. The steps of Lightning count as the
    forward of the whole.

    Args:
        mesh: of one dimension, the ranks that share a copy of the model.
        precision: of computing; None = as the parameters are.

    Raises:
        ValueError: a part is quantised.
    """
    if small := next((name for name, p in model.named_parameters() if not p.is_floating_point()), None):
        raise ValueError(
            f"{small} is quantised, and FSDP2 shards no such weights: train with ddp.yaml, where every GPU holds the small decoder whole, or "
            "leave quantize out"
        )
    settings: dict[str, Any] = {"mesh": mesh}
    if precision is not None:
        settings["mp_policy"] = MixedPrecisionPolicy(param_dtype=precision, cast_forward_inputs=False)
    scalars = {p for p in model.parameters() if p.ndim == 0}
    for block in blocks_of(model):
        fully_shard(block, **settings)
    fully_shard(model, reshard_after_forward=False, ignored_params=scalars, **settings)
    for scalar in scalars:
        if scalar.requires_grad:
            scalar.register_post_accumulate_grad_hook(partial(_average, mesh=mesh))
    for name in ENTRIES:
        register_fsdp_forward_method(model, name)


def unshard(model: nn.Module) -> None:
    """Give every rank the whole model until :func:`reshard`, so that ranks with unequal numbers of samples do not wait for each other.

    Evaluation and generation need it: every rank then works alone. The whole model has to fit on a GPU, without gradients and
    optimiser states.
    """
    for part in shards_of(model):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def reshard(model: nn.Module) -> None:
    """Back to shards."""
    for part in shards_of(model):
        part.set_reshard_after_forward(id(part) != id(model), recurse=False)
        part.reshard()


#: Their names until 2026-11-29.
gather, release = unshard, reshard


def shards_of(model: nn.Module) -> list[FSDPModule]:
    """Modules that :func:`shard` made; none without FSDP2."""
    return [part for part in model.modules() if isinstance(part, FSDPModule)]


def _average(scalar: Tensor, mesh: DeviceMesh) -> None:
    assert scalar.grad is not None
    dist.all_reduce(scalar.grad, group=mesh.get_group())
    scalar.grad /= mesh.size()


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's FSDP2 strategy over all ranks, without tensor parallelism: ``--config fsdp.yaml``.

    Args:
        save_distributed_checkpoint: True = a folder with one file per rank; False = one file, put together on rank 0.
    """

    def __init__(self, save_distributed_checkpoint: bool = False) -> None:
        super().__init__(save_distributed_checkpoint=save_distributed_checkpoint)

    def setup_environment(self) -> None:
        """The mesh is as large as the world; Lightning's own ``auto`` would make it as large as the number of nodes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """A single file may lack what the model leaves out of its checkpoints; Lightning would load all names or any.

        Raises:
            KeyError: it lacks more.
        """
        module = self.lightning_module
        assert module is not None
        absent = left_out(module)
        if not absent or Path(checkpoint_path).is_dir():
            return super().load_checkpoint(checkpoint_path, weights_only)
        there = plain_state(torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)["state_dict"]).keys()
        if lacking := sorted(module.state_dict().keys() - there - absent):
            raise KeyError(f"{checkpoint_path} lacks {len(lacking)} tensors of this model, e.g. {lacking[:3]}")
        strict, module.strict_loading = module.strict_loading, False
        try:
            return super().load_checkpoint(checkpoint_path, weights_only)
        finally:
            module.strict_loading = strict
