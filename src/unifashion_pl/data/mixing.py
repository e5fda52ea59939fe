"""Several training streams of pairs as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from unifashion_pl.data.samples import PairBatch
from unifashion_pl.data.stream import TrainLoader


class MixedPairLoader:
    """Several training streams of pairs as one: each batch is the parts' batches one behind the other.

    An epoch ends with the part that has the most batches; the others go on with their next epoch.

    Args:
        loaders: the parts.

    Raises:
        ValueError: some parts carry cached vision features and others pixels, or features of different towers.
    """

    def __init__(self, loaders: Sequence[TrainLoader[PairBatch]]) -> None:
        self.loaders = list(loaders)
        if len({loader.source.features for loader in self.loaders}) > 1:
            found = "; ".join(f"{x.source.dataset}: {x.source.features[:12] or 'pixels'}" for x in self.loaders)
            raise ValueError(
                f"one batch cannot mix pixels and cached vision features, or features of two towers: {found}. "
                "Make the same features for all parts (`unifashion data features`), or train all of them on pixels"
            )
        self._longest = max(self.loaders, key=len)

    def __len__(self) -> int:
        return len(self._longest)

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
        others = {id(loader): _endless(loader) for loader in self.loaders if loader is not self._longest}
        for batch in self._longest:
            yield PairBatch.interleave([batch if x is self._longest else next(others[id(x)]) for x in self.loaders])

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
