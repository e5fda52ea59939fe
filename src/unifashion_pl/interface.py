"""What functions know of a model: its backbone, its heads and where it lies. :class:`unifashion_pl.UniFashionModule` is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.tasks import CaptionModule, DiffusionModule, RetrievalModule


class FashionModel(Protocol):
    """A Q-Former backbone and up to three heads.

    Attributes:
        learned: the tasks it was trained for; None = not known, see :mod:`unifashion_pl.learned`.
        toy: whether it is the shipped toy, which knows drawings alone.
    """

    backbone: QFormerBackbone
    retrieval_head: RetrievalModule | None
    caption_head: CaptionModule | None
    diffusion_head: DiffusionModule | None
    learned: frozenset[str] | None
    toy: bool

    @property
    def device(self) -> torch.device: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def state_dict(self) -> Mapping[str, Any]: ...


class SavedModel(FashionModel, Protocol):
    """A model that was built from a config, so that it can be written and built again; ``training_seed`` is of its last training."""

    leave_out: tuple[str, ...]
    training_seed: int | None

    @property
    def hparams(self) -> Any: ...

    def describe_parameters(self) -> str: ...
