"""Several training streams as one, and which of them an epoch is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unifashion_pl.data.samples import PairBatch
from unifashion_pl.data.stream import TrainLoader
from unifashion_pl.names import unknown


class MixedPairLoader:
    """Several training streams of pairs as one: each batch is the parts' batches one behind the other.

    An epoch is one of the part that :meth:`pace` names, else of that with the most batches. The others go on from epoch to epoch where
    they were.

    Args:
        loaders: the parts.
        epoch_of: as in :meth:`pace`.

    Raises:
        ValueError: some parts carry cached vision features and others pixels, or features of different towers; or as :meth:`pace`.
    """

    def __init__(self, loaders: Sequence[TrainLoader[PairBatch]], epoch_of: str | None = None) -> None:
        self.loaders = list(loaders)
        for what, name in (("vision features", "features"), ("latents", "latents")):
            kept = [getattr(loader.source, name) for loader in self.loaders]
            if len(set(kept)) > 1:
                found = "; ".join(f"{x.source.dataset}: {of[:12] or 'pixels'}" for x, of in zip(self.loaders, kept))
                raise ValueError(
                    f"one batch cannot mix pixels and cached {what}, or {name} of two models: {found}. "
                    f"Make the same {name} for all parts (`unifashion data {name}`), or train all of them on pixels"
                )
        self.pace(epoch_of)

    def pace(self, epoch_of: str | None) -> None:
        """Let an epoch be one of a dataset, or of the part with the most batches (None); of several parts of one dataset, the longest's.

        Raises:
            ValueError: no part is of that dataset.
        """
        named = [loader for loader in self.loaders if epoch_of in (None, loader.dataset_name)]
        if not named:
            raise ValueError(unknown("epoch_of", str(epoch_of), list(dict.fromkeys(x.dataset_name for x in self.loaders))))
        self.pacer = max(named, key=len)

    def __len__(self) -> int:
        return len(self.pacer)

    @property
    def batch_size(self) -> int:
        """Pairs of a batch, per rank."""
        return sum(loader.batch_size for loader in self.loaders)

    @property
    def may_double(self) -> bool:
        """As :attr:`TrainLoader.may_double`, of all parts."""
        return all(loader.may_double for loader in self.loaders)

    @property
    def bad(self) -> dict[str, str]:
        """Damaged samples of all parts; keys of different datasets are kept apart."""
        return {f"{x.source.dataset}/{key}": message for x in self.loaders for key, message in x.bad.items()}

    def set_epoch(self, epoch: int) -> None:
        """As :meth:`TrainLoader.set_epoch`, of all parts."""
        for loader in self.loaders:
            loader.set_epoch(epoch)

    def close(self) -> None:
        """As :meth:`TrainLoader.close`, of all parts."""
        for loader in self.loaders:
            loader.close()

    def peek(self, most: int = 2) -> PairBatch:
        """As :meth:`TrainLoader.peek`, ``most`` samples of every part."""
        return PairBatch.interleave([loader.peek(most) for loader in self.loaders])

    def idle_workers(self) -> str:
        """As :meth:`TrainLoader.idle_workers`."""
        return "; ".join(filter(None, (loader.idle_workers() for loader in self.loaders)))

    def __iter__(self) -> Iterator[PairBatch]:
        others = {id(loader): _endless(loader) for loader in self.loaders if loader is not self.pacer}
        for batch in self.pacer:
            yield PairBatch.interleave([batch if x is self.pacer else next(others[id(x)]) for x in self.loaders])

    def state_dict(self) -> dict[str, Any]:
        """States of the parts."""
        return {"parts": [loader.state_dict() for loader in self.loaders]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position.

        Raises:
            ValueError: another number of parts, or as :meth:`TrainLoader.load_state_dict`.
        """
        if len(state["parts"]) != len(self.loaders):
            raise ValueError(f"cannot resume: the run mixed {len(state['parts'])} datasets, now there are {len(self.loaders)}")
        for loader, part in zip(self.loaders, state["parts"]):
            loader.load_state_dict(part)


def _endless(loader: TrainLoader[PairBatch]) -> Iterator[PairBatch]:
    while True:
        yield from loader


def parts_of(stream: Any) -> list[TrainLoader[Any]]:
    """The datasets of a stream, each a :class:`TrainLoader`."""
    return stream.loaders if isinstance(stream, MixedPairLoader) else [stream]


def pacing(streams: Mapping[str, TrainLoader[Any] | MixedPairLoader], epoch_of: str | Sequence[str] | None) -> str:
    """Which of several streams an epoch is of: the named one, or that of the named dataset, by which its mix then goes; None = the longest.

    Args:
        epoch_of: of several names, the first that there is.

    Raises:
        ValueError: no stream and no dataset of one has that name, with those that there are.
    """
    if epoch_of is None:
        return max(streams, key=lambda name: len(streams[name]))
    datasets: dict[str, str] = {}
    for name, stream in streams.items():
        for part in parts_of(stream):
            datasets.setdefault(part.dataset_name, name)
    chosen = chosen_epoch(epoch_of, [*streams, *datasets])
    if chosen in streams:
        return chosen
    mixed = streams[datasets[chosen]]
    if isinstance(mixed, MixedPairLoader):
        mixed.pace(chosen)
    return datasets[chosen]


def chosen_epoch(epoch_of: str | Sequence[str], known: Sequence[str]) -> str:
    """The first of the names that is known.

    Raises:
        ValueError: none is.
    """
    names = [epoch_of] if isinstance(epoch_of, str) else epoch_of
    found = [name for name in names if name in known]
    if not found:
        raise ValueError(unknown("epoch_of", ", ".join(names), known))
    return found[0]
