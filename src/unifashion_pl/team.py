"""The processes that compute something together, and rows keyed by id that they share.

Rows (an id, plain facts, tensors) lie on the CPU of the process that saw them, and are exchanged once. Three properties follow: padding
duplicates of a distributed sampler count once (rows are de-duplicated by id), ranks may hold different numbers of rows or none, and the
result does not depend on which rank saw which row (gathered rows are sorted by id).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Rows:
    """Immutable rows: ``ids`` (n), ``facts`` lists of n plain values, ``tensors`` of first dimension n on the CPU."""

    ids: Sequence[Hashable] = ()
    facts: dict[str, list[Any]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {name: len(column) for name, column in self.facts.items()}
        for name, size in {**sizes, **{name: len(tensor) for name, tensor in self.tensors.items()}}.items():
            if size != len(self.ids):
                raise ValueError(f"{name} has {size} rows, but there are {len(self.ids)} ids")

    def __len__(self) -> int:
        return len(self.ids)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        return self

    def take(self, index: Sequence[int]) -> Rows:
        """The rows at ``index``, in that order; these rows themselves if that is all of them as they are."""
        if len(index) == len(self) and all(i == place for place, i in enumerate(index)):
            return self
        where = torch.as_tensor(index, dtype=torch.long)
        facts = {name: [column[i] for i in index] for name, column in self.facts.items()}
        return Rows([self.ids[i] for i in index], facts, {name: column[where] for name, column in self.tensors.items()})

    def where(self, **facts: Any) -> Rows:
        """The rows with these facts."""
        if not len(self):
            return self
        columns = zip(*(self.facts[name] for name in facts))
        return self.take([i for i, values in enumerate(columns) if values == (*facts.values(),)])

    def ordered(self) -> Rows:
        """Sorted by id."""
        return self.take(sorted(range(len(self)), key=lambda i: repr(self.ids[i])))


def merge(chunks: Sequence[Rows]) -> Rows:
    """Concatenate rows and keep the first of every id.

    Raises:
        ValueError: an id occurs twice with different facts (two samples share a key).
    """
    chunks = [chunk for chunk in chunks if len(chunk)]
    if not chunks:
        return Rows()
    ids = [i for chunk in chunks for i in chunk.ids]
    facts = {name: [v for chunk in chunks for v in chunk.facts[name]] for name in chunks[0].facts}
    seen: dict[Hashable, int] = {}
    for position, key in enumerate(ids):
        first = seen.setdefault(key, position)
        for name, column in facts.items():
            if (one := column[first]) != (other := column[position]):
                raise ValueError(f"id {key!r} was given twice with different {name}: {one!r} and {other!r}")
    keep = [*seen.values()]
    if len(chunks) == 1:
        return chunks[0].take(keep)
    tensors = {name: torch.cat([chunk.tensors[name] for chunk in chunks]) for name in chunks[0].tensors}
    return Rows(ids, facts, tensors).take(keep)


class Team:
    """The processes that compute a metric together; one process when nothing is distributed.

    Every method is a collective: all ranks call it, ranks without rows included.
    """

    def __init__(self, active: bool, group: Any = None) -> None:
        self.active = active
        self.group = group
        self.rank = dist.get_rank(group) if active else 0
        self.size = dist.get_world_size(group) if active else 1

    @property
    def device(self) -> torch.device:
        """Where tensors must lie to be exchanged."""
        nccl = "nccl" in dist.get_backend(self.group)
        return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")

    def objects(self, value: T) -> list[T]:
        """``value`` of every rank, in rank order."""
        if not self.active:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def guarded(self, work: Callable[[], T]) -> T:
        """Run ``work``; if it raises ``ValueError`` on any rank, raise it on all, so that none waits for the others."""
        result: list[T] = []
        error: str | None = None
        try:
            result.append(work())
        except ValueError as caught:
            error = str(caught)
        errors = [e for e in self.objects(error) if e is not None]
        if errors:
            raise ValueError(errors[0])
        return result[0]

    def reduce(self, values: Tensor, how: str) -> Tensor:
        """Sum (``how="sum"``) or maximum (``"max"``) of equally shaped tensors; result on the device of ``values``."""
        if not self.active:
            return values
        sent = values.detach().to(self.device, copy=True)
        dist.all_reduce(sent, op=dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX, group=self.group)
        return sent.to(values.device)

    def own(self, rows: Rows) -> Rows:
        """The local rows no lower rank holds, sorted by id: over all ranks each id exactly once.

        Raises:
            ValueError: two ranks hold an id with different facts.
        """
        gathered = self.objects((list(rows.ids), rows.facts))
        taken = {key for ids, _ in gathered[: self.rank] for key in ids}
        if self.active:
            merge([Rows(ids, facts) for ids, facts in gathered])
        return rows.take([i for i, key in enumerate(rows.ids) if key not in taken]).ordered()

    def facts(self, own: Rows) -> Rows:
        """Ids and facts (no tensors) of all ranks, sorted by id. ``own`` comes from :meth:`own`."""
        gathered = self.objects((list(own.ids), own.facts))
        ids = [i for part, _ in gathered for i in part]
        names = next((list(facts) for part, facts in gathered if part), [])
        return Rows(ids, {name: [v for part, facts in gathered if part for v in facts[name]] for name in names}).ordered()

    def rows(self, own: Rows) -> Rows:
        """All rows with their tensors on every rank, sorted by id. ``own`` comes from :meth:`own`."""
        if not self.active:
            return own
        forms = self.objects({name: (tuple(t.shape), t.dtype) for name, t in own.tensors.items()} if len(own) else {})
        ids = [i for part in self.objects(list(own.ids)) for i in part]
        names = next((list(form) for form in forms if form), [])
        tensors = {name: self._concatenated(own.tensors.get(name), [form.get(name) for form in forms]) for name in names}
        gathered = Rows(ids, {}, tensors).ordered()
        return Rows(gathered.ids, self.facts(own).facts, gathered.tensors)

    def _concatenated(self, mine: Tensor | None, forms: list[tuple[Any, torch.dtype] | None]) -> Tensor:
        """The column of all ranks that have rows; ``forms`` is each rank's shape and type."""
        parts = []
        for rank, form in enumerate(forms):
            if form is None:
                continue
            part = torch.empty(form[0], dtype=form[1], device=self.device)
            if rank == self.rank and mine is not None:
                part.copy_(mine)
            source = dist.get_global_rank(self.group, rank) if self.group is not None else rank
            dist.broadcast(part, src=source, group=self.group)
            parts.append(part.cpu())
        return torch.cat(parts)


def team_of_all() -> Team:
    """All processes of the run; one when nothing is distributed."""
    return Team(dist.is_available() and dist.is_initialized())


def merged(team: Team, lines: Iterable[T], key: Callable[[T], str]) -> list[T]:
    """Lines of all ranks sorted by ``key``; a collective."""
    return sorted((line for part in team.objects(list(lines)) for line in part), key=key)


def averaged(team: Team, own: Mapping[str, float]) -> dict[str, float]:
    """Mean of each entry over the ranks that have it; a collective."""
    found: dict[str, list[float]] = {}
    for part in team.objects(dict(own)):
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sorted(found.items())}


def united(team: Team, own: Mapping[str, T]) -> dict[str, T]:
    """Entries of all ranks; a collective."""
    return {name: value for part in team.objects(own) for name, value in part.items()}
