"""Loaders whose order is a pure function of (seed, epoch): the same batches for any number of workers, exact resume, exact evaluation.

The main process decides which samples make up which batch; workers only read and decode. So a resume starts at batch k without
reading what came before, and several workers cannot change the order.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, islice
from typing import Any, Generic, TypeVar
from weakref import ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from unifashion_pl.data.assemble import Assembler
from unifashion_pl.data.reader import DamagedSample, SampleSource
from unifashion_pl.data.samples import Batch
from unifashion_pl.data.texts import EVALUATION, Draw
from unifashion_pl.team import team_of_all

B = TypeVar("B", bound=Batch)
Order = NDArray[np.int64]
#: Shards that are shuffled together.
WINDOW = 4
#: Neighbours of a batch that may stand in for it if all of its own samples are damaged, as a single one of a batch of one is.
SPARE = 16


def training_order(blocks: Sequence[int], seed: int, epoch: int) -> Order:
    """Numbers of all samples in the order of an epoch: shards permuted, then samples permuted inside windows of :data:`WINDOW` shards.

    Args:
        blocks: samples per shard.
    """
    rng = random.Random(f"{seed}-{epoch}")
    starts = [0, *accumulate(blocks)]
    shards = list(range(len(blocks)))
    rng.shuffle(shards)
    order: list[int] = []
    for first in range(0, len(shards), WINDOW):
        numbers = [n for shard in shards[first : first + WINDOW] for n in range(starts[shard], starts[shard + 1])]
        rng.shuffle(numbers)
        order += numbers
    return np.array(order, np.int64)


@dataclass(frozen=True)
class Rank:
    """This process among all that train together: ``index`` of ``world``."""

    index: int = 0
    world: int = 1

    @classmethod
    def here(cls, trainer: Any = None) -> Rank:
        """From the trainer if there is one, else from torch.distributed if it runs, else 0 of 1."""
        if trainer is not None:
            return cls(trainer.global_rank, trainer.world_size)
        team = team_of_all()
        return cls(team.rank, team.size)


@dataclass(frozen=True)
class Workers:
    """Processes that read and decode.

    Args:
        num: 0 reads in the training process.
        prefetch: batches per worker that are made ahead.
        start_method: ``fork``, ``spawn``, ``forkserver`` or None for the platform's default.
    """

    num: int = 0
    prefetch: int = 2
    start_method: str | None = None

    def loader(self, dataset: Dataset[Any], sampler: Any, persistent: bool) -> DataLoader[Any]:
        """A torch DataLoader whose sampler yields whole requests; where there is a GPU, its batches lie in pinned memory."""
        more: dict[str, Any] = {"batch_size": None, "collate_fn": _unchanged, "num_workers": self.num}
        more["pin_memory"] = torch.cuda.is_available()
        if self.num:
            more |= {"prefetch_factor": self.prefetch, "persistent_workers": persistent}
            more |= {"multiprocessing_context": self.start_method}
        return DataLoader(dataset, sampler=sampler, **more)


def _unchanged(answer: Any) -> Any:
    return answer


def end_workers(iterator: Any) -> None:
    """End the worker processes of a DataLoader's iterator, if it has any.

    Left to the garbage collector they take 5 s each: an iterator that lies in a cycle loses the thread that would tell them to end first.
    """
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


@dataclass(frozen=True)
class _Request:
    """A batch to be made: its samples' numbers, the source of their random choices, and samples for a batch that is damaged as a whole."""

    numbers: list[int]
    draw: Draw
    spare: Sequence[int] = ()


class _Batches(Dataset[Any]):
    """Requests -> (batch, damaged samples as (key, what is wrong)); lives in the workers."""

    def __init__(self, source: SampleSource, assembler: Assembler[Any], strict: bool) -> None:
        self.source, self.assembler, self.strict = source, assembler, strict

    def __getitem__(self, request: _Request) -> tuple[Batch, list[tuple[str, str]]]:
        bad: dict[str, str] = {}
        rows = [self._row(number, request.draw, bad) for number in request.numbers]
        good = [row for row in rows if row is not None]
        for number in request.spare if not good else ():
            if (row := self._row(number, request.draw, bad)) is not None:
                good.append(row)
                break
        if not good:
            first, message = next(iter(bad.items()))
            raise DamagedSample(first, f"{message}; so are all other samples of its batch and {len(request.spare)} more")
        copies = cycle(good)
        whole = type(good[0]).cat([next(copies) if row is None else row for row in rows])
        return whole, list(bad.items())

    def _row(self, number: int, draw: Draw, bad: dict[str, str]) -> Any:
        """A sample, or None if it is damaged and may be replaced by a copy of another, so that every rank keeps its batch size.

        A copy has the id of its original, and equal ids are never negatives of each other.
        """
        try:
            return self.assembler.sample(self.source.read(number), draw, self.source.dataset)
        except DamagedSample as error:
            if self.strict:
                raise
            bad[self.source.keys[number]] = str(error)
            return None


class TrainLoader(Generic[B]):
    """An endless sequence of training batches, cut into epochs; ``iter`` goes on where the last one stopped.

    An epoch has ``samples // (world × batch_size)`` batches on every rank; the samples left over differ between epochs. Lightning
    saves and loads the state of the loader with the checkpoint.

    Args:
        source: a split called ``train``; anything else is refused, whatever its path.
        assembler: makes the batches.
        batch_size: per rank.
        seed: of order and texts.
        rank: this one.
        workers: reading processes.
        max_bad: different damaged samples that this rank replaces and reports before training stops, over all workers, epochs and
            resumed runs.
        exclude: keys that are left out.

    Attributes:
        bad: key -> what is wrong, of the damaged samples that were met.

    Raises:
        ValueError: not a training split, fields are absent, or there are fewer samples than one batch on every rank.
    """

    def __init__(
        self,
        source: SampleSource,
        assembler: Assembler[B],
        *,
        batch_size: int,
        seed: int = 0,
        rank: Rank = Rank(),
        workers: Workers = Workers(),
        max_bad: int = 0,
        exclude: Sequence[str] = (),
    ) -> None:
        _check_source(source, assembler)
        if source.split != "train":
            raise ValueError(
                f"{source.dataset} ({source.kind}) is an evaluation split: training on it is refused. Name the folder of the split `train`"
            )
        self.source, self.batch_size, self.seed, self.rank = source, batch_size, seed, rank
        self.max_bad = max_bad
        excluded = set(exclude)
        self._allowed = np.array([key not in excluded for key in source.keys], bool)
        self.samples = int(self._allowed.sum())
        if self.samples < rank.world * batch_size:
            raise ValueError(
                f"{source.dataset} has {self.samples} samples for training, but one batch takes {rank.world} × {batch_size} "
                "(ranks × batch_size): lower batch_size or the number of devices"
            )
        self.position = 0
        self.bad: dict[str, str] = {}
        self.workers = workers
        self._batches = _Batches(source, assembler, strict=False)
        self._loader = workers.loader(self._batches, _Requests(self), persistent=True)

    def __len__(self) -> int:
        return self.samples // (self.rank.world * self.batch_size)

    @property
    def dataset_name(self) -> str:
        """What configs call it: ``fashioniq_cap``."""
        return self.source.dataset.partition("/")[0].replace("-", "_")

    @property
    def may_double(self) -> bool:
        """Whether there are samples for batches twice as large."""
        return 2 * self.rank.world * self.batch_size <= self.samples

    @property
    def epoch(self) -> int:
        """Epoch that the next batch belongs to."""
        return self.position // len(self)

    def set_epoch(self, epoch: int) -> None:
        """Go to the first batch of an epoch."""
        self.position = epoch * len(self)

    def batches(self, epoch: int) -> Iterator[list[int]]:
        """Sample numbers of this rank's batches in an epoch."""
        order = training_order(self.source.blocks, self.seed, epoch)
        order = order[self._allowed[order]]
        own = order[self.rank.index :: self.rank.world]
        for batch in range(len(self)):
            yield own[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()

    def __iter__(self) -> Iterator[B]:
        for batch, bad in self._loader:
            self._report(bad)
            self.position += 1
            yield batch

    def close(self) -> None:
        """End the worker processes; another ``iter`` starts new ones."""
        end_workers(self._loader._iterator)
        self._loader._iterator = None

    def peek(self, most: int = 2) -> B:
        """The first samples of the next batch, read in this process; nothing moves on.

        Raises:
            DamagedSample: all of them are damaged.
        """
        epoch, done = divmod(self.position, len(self))
        numbers = next(islice(self.batches(epoch), done, None))[:most]
        batch: B = self._batches[_Request(numbers, Draw(self.seed, epoch))][0]  # type: ignore[assignment]
        return batch

    def idle_workers(self) -> str:
        """A sentence about workers that can never get a batch, "" if all can."""
        if self.workers.num <= len(self):
            return ""
        return (
            f"{self.source.dataset}: an epoch has {len(self)} batches on each rank ({self.samples} samples, {self.rank.world} × "
            f"{self.batch_size} a step), so {self.workers.num - len(self)} of {self.workers.num} workers have nothing to do: "
            f"num_workers={len(self)} is enough"
        )

    def _report(self, bad: list[tuple[str, str]]) -> None:
        for key, message in bad:
            if key in self.bad:
                continue
            self.bad[key] = message
            if len(self.bad) > self.max_bad:
                raise RuntimeError(
                    f"{self.source.dataset}: {len(self.bad)} damaged samples, allowed are max_bad={self.max_bad}: "
                    f"{'; '.join(self.bad.values())}. "
                    "Build the shards again, or raise max_bad to train without these samples"
                )
            warnings.warn(f"damaged sample {len(self.bad)} of at most {self.max_bad}: {message}", stacklevel=2)

    def _identity(self) -> dict[str, Any]:
        return {
            "index": self.source.hash,
            "samples": self.samples,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "world": self.rank.world,
            "window": WINDOW,
        }

    def state_dict(self) -> dict[str, Any]:
        """Epoch and number of its batches that the trainer has taken (not those made ahead), what they depend on, and damage met."""
        return {**self._identity(), "epoch": self.epoch, "batches": self.position % len(self), "bad": dict(self.bad)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position.

        Raises:
            ValueError: index, samples, seed, batch size or world size differ, with both values.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"cannot resume {self.source.dataset} in the middle of an epoch: {name} was {state.get(name)!r}, now it is {value!r}. "
                    "Use the old value, or start from the checkpoint's weights (init_from) instead of resuming"
                )
        self.position = state["epoch"] * len(self) + state["batches"]
        self.bad = dict(state.get("bad", {}))


class _Requests(Sampler[_Request]):
    """Requests of the rest of the loader's current epoch; read anew by every ``iter``, also with persistent workers.

    It does not keep the loader alive, so that the workers end with the last reference to it, not with a garbage collection.
    """

    def __init__(self, loader: TrainLoader[Any]) -> None:
        self.loader = ref(loader)

    def __iter__(self) -> Iterator[_Request]:
        loader = self.loader()
        assert loader is not None
        return self._requests(
            loader.position % len(loader), list(loader.batches(loader.epoch)), Draw(loader.seed, loader.epoch)
        )

    @staticmethod
    def _requests(done: int, batches: list[list[int]], draw: Draw) -> Iterator[_Request]:
        order = [number for numbers in batches for number in numbers]
        size = len(batches[0])
        for batch in range(done, len(batches)):
            start = batch * size
            before, after = order[max(0, start - SPARE) : start], order[start + size : start + size + SPARE]
            yield _Request(batches[batch], draw, (*reversed(before), *after)[:SPARE])


class EvalLoader(Generic[B]):
    """Every sample of a split exactly once over all ranks and workers, in index order; the last batch may be smaller.

    Ranks get numbers of samples that differ by at most one, possibly none: no padding, so gather results by id.

    Args:
        source, assembler, batch_size, rank, workers: as for :class:`TrainLoader`.
    """

    def __init__(
        self,
        source: SampleSource,
        assembler: Assembler[B],
        *,
        batch_size: int,
        rank: Rank = Rank(),
        workers: Workers = Workers(),
    ) -> None:
        _check_source(source, assembler)
        self.source, self.assembler, self.batch_size = source, assembler, batch_size
        own = range(rank.index, len(source.keys), rank.world)
        self.requests = [_Request(list(own[i : i + batch_size]), EVALUATION) for i in range(0, len(own), batch_size)]
        self._loader = workers.loader(_Batches(source, assembler, strict=True), self.requests, persistent=False)
        self._iterator: Any = None

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[B]:
        self._iterator = iter(self._loader)
        for batch, _ in self._iterator:
            yield batch

    def close(self) -> None:
        """End the worker processes of an evaluation that stopped early."""
        end_workers(self._iterator)
        self._iterator = None


def _check_source(source: SampleSource, assembler: Assembler[Any]) -> None:
    if absent := assembler.needs - set(source.fields):
        raise ValueError(
            f"{source.dataset} ({source.kind}) has the fields {', '.join(source.fields)}, but {type(assembler).__name__} needs "
            f"{', '.join(sorted(absent))}: is this the folder of another kind of shards?"
        )
