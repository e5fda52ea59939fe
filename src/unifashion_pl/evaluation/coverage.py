"""Which part of its data an evaluation saw: numbers of a part are labelled, and never look like numbers of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch.utils._pytree import tree_leaves

from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.reader import DamagedSample
from unifashion_pl.data.samples import Batch, GalleryBatch, PairBatch, QueryBatch
from unifashion_pl.data.stream import EvalLoader
from unifashion_pl.data.texts import EVALUATION
from unifashion_pl.metrics.candidates import Catalogue
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.team import Team

Key = tuple[str, str]


@dataclass(frozen=True)
class Whole:
    """All pairs of a dataset: views and products, and how many of the products have a caption."""

    catalogue: Catalogue
    captioned: int


def kind_of(batch: Batch) -> str:
    """Kind of shards that a batch of an evaluation comes from."""
    if isinstance(batch, PairBatch):
        return "pairs"
    return "gallery" if isinstance(batch, GalleryBatch) else "queries" if isinstance(batch, QueryBatch) else "tryon"


class Coverage:
    """Counts samples by dataset and kind, and knows how many there are.

    Args:
        loaders: of the evaluation, in any nesting; how many samples others than :class:`~unifashion_pl.data.stream.EvalLoader` have is
            not known.
        limit: the trainer's on their batches: a count, or a share below 1; None = none.

    Raises:
        ValueError: two loaders have other data under one name, which results could not keep apart.
    """

    def __init__(self, loaders: Any = (), limit: float | None = None) -> None:
        self.cut = limit is not None and (isinstance(limit, int) or limit < 1)
        self.loaders: dict[Key, EvalLoader[Any]] = {}
        self.seen: Counter[Key] = Counter()
        for loader in tree_leaves(loaders):
            if not isinstance(loader, EvalLoader):
                continue
            source = loader.source
            known = self.loaders.setdefault((source.dataset, source.kind), loader)
            if known.source.hash != source.hash:
                raise ValueError(
                    f"two different sets of {source.kind} are called {source.dataset}: their samples would be counted as one. Give one "
                    "of them another name (the DataModule's `name`), or evaluate them one after the other"
                )

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.seen[batch.dataset, kind_of(batch)] += len(batch)

    def close(self, team: Team) -> None:
        """Add up all ranks; a collective."""
        self.seen = sum(team.objects(self.seen), Counter())

    def total(self, key: Key) -> int | None:
        """Samples that there are; None = not known."""
        if key in self.loaders:
            return len(self.loaders[key].source.keys)
        return None if self.cut else self.seen[key]

    def missed(self, key: Key) -> str:
        """``seen/there are`` of a set that was not seen as a whole, "" if it was."""
        there = self.total(key)
        return "" if there is not None and self.seen[key] >= there else f"{self.seen[key]}/{'?' if there is None else there}"

    def notes(self) -> Iterator[str]:
        """A sentence per set of which only a part was seen."""
        for key in sorted(self.seen):
            if part := self.missed(key):
                seen, _, there = part.partition("/")
                yield f"only {seen} of {there} samples of {key[0]} ({key[1]}) were seen: the numbers are of that part, and are labelled so"

    def whole(self, dataset: str) -> Whole | None:
        """All pairs of a dataset of which a part was seen, read without decoding a picture; None where nothing can be read."""
        loader = self.loaders.get((dataset, "pairs"))
        assembler = None if loader is None else loader.assembler
        if loader is None or not isinstance(assembler, PairAssembler):
            return None
        rows = []
        for number in range(len(loader.source.keys)):
            with suppress(DamagedSample):  # nobody asked for it: a shortened run is not the place to complain
                rows.append(assembler.describe(loader.source.read(number), EVALUATION))
        views = Catalogue.of((row.key, str(row.product), row.category, row.subcategory) for row in rows)
        return Whole(views, len({row.product for row in rows if row.caption}))

    def labelled(self, record: ResultRecord, key: Key) -> ResultRecord:
        """A record whose protocol says that a part was seen; unchanged if it says so already, or if all was seen."""
        part = self.missed(key)
        if not part or record.shortened:
            return record
        return replace(record, protocol=str(record.under.adding(shortened=part)))
