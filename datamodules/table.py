"""Data of anybody's own: rows by number, as torch's and Hugging Face's datasets and lists have them, used without shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from unifashion_pl.datamodules.base import FashionDataModule

from unifashion_pl.arguments import choice
from unifashion_pl.data.assemble import Assembler, GalleryAssembler, PairAssembler, QueryAssembler, TripletAssembler
from unifashion_pl.data.plan import Kind, Plan
from unifashion_pl.data.stream import EvalLoader, TrainLoader
from unifashion_pl.data.table import COLUMNS, Table, TableSource


class TableDataModule(FashionDataModule):
    """Image–text pairs or composed triplets from rows of one's own; see :class:`~unifashion_pl.data.table.TableSource` for what they hold.

    Order, resume, ranks and damaged rows are as with every other DataModule of this library. Rows are read in worker processes, so they
    have to be picklable. A resume compares the number of rows, not what is in them.

    Args:
        train, validation, test: rows; None = no such split. Of triplets, what is evaluated are queries: ``reference``, ``text`` and the ids
            ``reference_id`` and ``target_id`` of images of the gallery.
        gallery: rows ``image``, ``id``, ``category``, in which queries are searched.
        kind: of the training rows, ``pairs`` or ``triplets``.
        columns: our names -> the rows' own, e.g. ``{"image": "jpg", "text": "json.caption"}``.
        labels: further columns of pairs, of plain values, which batches carry for heads and measures of one's own (``batch.labels``).
        name: of the dataset in results.
        root: what relative paths of pictures are relative to.
        style: instruction style of the captions.
        same, flip: as in :class:`~unifashion_pl.datamodules.CatalogueDataModule`.
        **common: see :class:`~unifashion_pl.datamodules.base.FashionDataModule`.

    Raises:
        ValueError: another kind, unknown columns, or queries without a gallery.
    """

    def __init__(
        self,
        train: Table | None = None,
        validation: Table | None = None,
        test: Table | None = None,
        gallery: Table | None = None,
        *,
        kind: Literal["pairs", "triplets"] = "pairs",
        columns: dict[str, str] | None = None,
        labels: Sequence[str] = (),
        name: str = "table",
        root: str | Path = ".",
        style: str = "fashiongen",
        same: Literal["product", "text"] = "product",
        flip: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        if (
            choice(kind, "kind", ("pairs", "triplets")) == "triplets"
            and gallery is None
            and not (validation is None and test is None)
        ):
            raise ValueError("queries are evaluated in a gallery: name its rows too (gallery=...), of images with their ids")
        every = {column for groups in COLUMNS.values() for group in groups for column in group}
        for column in columns or ():
            choice(column, "column", sorted(every))
        self.tables = {"train": train, "validation": validation, "test": test}
        self.gallery, self.kind, self.columns, self.name = gallery, kind, columns, name
        self.labels = tuple(labels)
        self.style, self.same, self.flip = style, same, flip

    @property
    def stream(self) -> str:
        """``pairs`` or ``triplets``."""
        return self.kind

    def plans(self, root: Path) -> Iterable[Plan]:
        return []

    def prepare_data(self) -> None:
        """Nothing has to be made."""

    def table(self, rows: Any, kind: Kind, split: str) -> TableSource:
        """Samples of rows, with those of the columns that this kind has."""
        known = {column for group in COLUMNS[kind] for column in group}
        columns = {ours: theirs for ours, theirs in (self.columns or {}).items() if ours in known}
        labels = self.labels if kind == "pairs" else ()
        return TableSource(rows, kind, columns, labels, dataset=self.name, split=split, root=self.root or ".")

    def assembler(self) -> Assembler[Any]:
        """Makes :class:`PairBatch` or :class:`TripletBatch`."""
        if self.kind == "pairs":
            return PairAssembler(self.encoder, self.pixels, "name", "description", self.style, same=self.same, flip=self.flip)
        return TripletAssembler(self.encoder, self.pixels, style=self.style)

    def train_loader(self) -> TrainLoader[Any]:
        rows = self.tables["train"]
        if rows is None:
            raise ValueError(f"{self.name} has no rows to train on: name them (train=...)")
        return self.training(self.table(rows, self.kind, "train"), self.assembler())

    def eval_loaders(self, stage: str) -> list[EvalLoader[Any]]:
        """The split of that name; validation also serves as test where there is no other."""
        split = stage if self.tables[stage] is not None else "validation"
        rows = self.tables[split]
        if rows is None:
            return []
        if self.kind == "pairs":
            return [self.evaluation(self.table(rows, "pairs", split), self.assembler(), stage)]
        gallery, queries = self.table(self.gallery, "gallery", split), self.table(rows, "queries", split)
        return [
            self.evaluation(gallery, GalleryAssembler(self.encoder), stage),
            self.evaluation(queries, QueryAssembler(self.encoder), stage),
        ]
