"""Base of the metrics that rank or pair things, which cannot add up per batch: they keep rows, and exchange them inside ``compute``."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from unifashion_pl.team import Rows, Team, merge


class KeyedMetric(Metric):
    """Base of the metrics whose state is rows keyed by id.

    Args:
        tables: names of the row tables.
        kwargs: of ``torchmetrics.Metric`` (``process_group``, ``sync_on_compute``, ...).
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self, *tables: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._table_names = tables
        self._where = torch.device("cpu")
        for table in tables:
            self.add_state(table, default=[], dist_reduce_fx=None)

    @property
    def update_called(self) -> bool:
        """Always true: a rank without rows takes part in ``compute`` like any other, without a warning."""
        return True

    def _store(
        self, table: str, ids: Sequence[Hashable], facts: dict[str, Sequence[Any]], tensors: dict[str, Tensor] | None = None
    ) -> None:
        """Append rows; float tensors are kept in fp32 on the CPU, the device they came from is where they will be compared."""
        kept = {}
        for name, tensor in (tensors or {}).items():
            self._where = tensor.device
            kept[name] = tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        getattr(self, table).append(Rows(list(ids), {name: list(column) for name, column in facts.items()}, kept))

    def _local(self, table: str) -> Rows:
        """All rows of a table; they take the place of the parts, so that a large gallery is not held twice."""
        parts: list[Rows] = getattr(self, table)
        parts[:] = [merge(parts)]
        return parts[0]

    def _team(self) -> Team:
        """The processes of this computation; inside ``forward`` and with ``sync_on_compute=False`` this one alone."""
        return Team(bool(self._is_synced), self.process_group)

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        """Rows are exchanged inside ``compute``, where it is known which of them must travel."""

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = "") -> torch.nn.Module:
        return super()._apply(fn, exclude_state=(*self._table_names, *exclude_state))
