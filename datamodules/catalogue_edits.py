"""Composed triplets of a user's own catalogue: its rows differ in columns or in words, and what differs is said as people say it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unifashion_pl.datamodules.catalogue import CatalogueDataModule
from unifashion_pl.datamodules.catalogue_rows import COLUMNS, CatalogueRow
from unifashion_pl.datamodules.multitask import MultiTaskDataModule

from unifashion_pl.data.assemble import GalleryAssembler, QueryAssembler, TripletAssembler
from unifashion_pl.data.edited import EditAssembler, EditSource, questions, shelves
from unifashion_pl.data.edits import EditItem, Edits, chosen_attributes
from unifashion_pl.data.reader import SampleSource
from unifashion_pl.data.stream import EvalLoader, Rank, TrainLoader
from unifashion_pl.data.texts import product_text


class CatalogueEditsDataModule(CatalogueDataModule):
    """Composed triplets out of the rows of a catalogue: a photo, what shall be different ("in red"), and a photo of what is meant.

    Reference and target are rows of one split, of the same category and equal in all attributes but one or two, of which the text speaks. Every
    row of a split is a reference once an epoch, with an edit that is drawn anew. All rows that a text asks for are right
    answers: equal ``target_ids``, which no loss takes for negatives of each other (with ``multi_positive`` they are positives).

    Evaluated are a query of every row and attribute in all images of the split; R@K says whether any right answer is among the first K,
    ``measures: [nDCG@10]`` of the evaluator how many.

    Args:
        csv, root, shards, columns, val_fraction, allow_missing, text, caption: as in :class:`~unifashion_pl.datamodules.CatalogueDataModule`.
        attributes: columns that the texts may speak of; None = those with few values, which is said; [] = none: one word of the text for another.
        changes: most attributes that differ between reference and target.
        categories: whether the category may differ too ("the same in a skirt").
        name: of the dataset in results, after the catalogue's.
        **common: see :class:`~unifashion_pl.datamodules.base.FashionDataModule`. ``features`` are those of the catalogue's pairs.
    """

    stream = "triplets"

    def __init__(
        self,
        csv: str | Path,
        root: str | Path,
        shards: str | Path | None = None,
        *,
        attributes: Sequence[str] | None = None,
        changes: int = 2,
        categories: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(csv, root, shards, **common)
        self.attributes, self.changes, self.categories = attributes, changes, categories
        self._edits: dict[str, Edits] = {}

    def edits(self, split: str) -> Edits:
        """All edits among the rows of a split; what they are made of is said once.

        Raises:
            ValueError: an attribute that the CSV does not have, or no two rows make a triplet, with the reasons.
        """
        if split not in self._edits:
            rows = self.rows(split)
            chosen, said = chosen_attributes([self._cells(row) for row in self._rows.values()], self.attributes)
            lines = [] if self._edits else [f"{self.csv}: {said}"]
            items = [self._item(key, row, chosen) for key, row in rows.items()]
            self._edits[split] = Edits(items, chosen, self.changes, self.categories)
            if Rank.here(self.trainer).index == 0:
                print(*lines, f"{self.name}/{split}: {self._edits[split].told()}", sep="\n", file=sys.stderr)
        return self._edits[split]

    def _cells(self, row: CatalogueRow) -> dict[str, str]:
        """What may be an attribute."""
        taken = {*(self.columns or {}).values(), *(name for names in COLUMNS.values() for name in names)}
        return {name: cell for name, cell in row.cells.items() if name not in taken and name.lower() not in taken}

    def _item(self, key: str, row: CatalogueRow, names: Sequence[str]) -> EditItem:
        cells = self._cells(row)
        text = product_text(row.name, row.text, "name_description")
        return EditItem(key, row.id, row.category, {name: cells[name] for name in names if name in cells}, text)

    @property
    def edits_name(self) -> str:
        """Of the dataset of triplets."""
        return f"{self.name}-edits"

    def train_loader(self) -> TrainLoader[Any]:
        source = EditSource(self._read("train"), self.edits("train"), self.edits_name)
        triplets = TripletAssembler(self.encoder, self.pixels, style=self.style)
        return self.training(source, EditAssembler(source, triplets, replace(self.assembler(), flip=0.0)), source.lone)

    def eval_loaders(self, stage: str) -> list[EvalLoader[Any]]:
        """Gallery first, then queries, of the split of that name; validation also serves as test where there is no other."""
        split = "test" if stage == "test" and "test" in self.splits() else "val"
        if split not in self.splits():
            return []
        source, edits = self._read(split), self.edits(split)
        gallery, asked = shelves(source, edits, self.edits_name), questions(source, edits, self.edits_name, self.seed)
        again = frozenset(item.id for item in edits.items)
        return [
            self.evaluation(gallery, GalleryAssembler(self.encoder, planned=gallery.planned, again=again), stage),
            self.evaluation(asked, QueryAssembler(self.encoder, joiner="and", planned=asked.planned), stage),
        ]

    def _with_features(self, source: SampleSource, mirrored: bool = False) -> Any:
        """As in the base; what is made of samples that carry features has them already."""
        return source if source.features else super()._with_features(source, mirrored)

    def _read(self, split: str) -> SampleSource:
        """The pairs of a split, with features where these are wanted."""
        source = self.split_source(split)
        return self._with_features(source) if self.features else source


class ComposedCatalogueDataModule(MultiTaskDataModule):
    """A catalogue's pairs and its composed triplets beside each other, so that search by text is not forgotten over search by image and text.

    Args:
        csv, root, shards: see :class:`~unifashion_pl.datamodules.CatalogueDataModule`.
        attributes, changes, categories: see :class:`CatalogueEditsDataModule`.
        same, flip: of the pairs.
        batch_size: of pairs.
        triplet_batch_size: None = as many as pairs.
        epoch_of: see :class:`~unifashion_pl.datamodules.MultiTaskDataModule`.
        **common: of both.
    """

    def __init__(
        self,
        csv: str | Path,
        root: str | Path,
        shards: str | Path | None = None,
        *,
        attributes: list[str] | None = None,
        changes: int = 2,
        categories: bool = False,
        same: str = "product",
        flip: float = 0.0,
        batch_size: int = 32,
        triplet_batch_size: int | None = None,
        epoch_of: str | list[str] | None = None,
        **common: Any,
    ) -> None:
        edits: dict[str, Any] = {"attributes": attributes, "changes": changes, "categories": categories}
        pairs: dict[str, Any] = {"same": same, "flip": flip}
        super().__init__(
            CatalogueDataModule(csv, root, shards, batch_size=batch_size, **pairs, **common),
            CatalogueEditsDataModule(csv, root, shards, batch_size=triplet_batch_size or batch_size, **edits, **common),
            None,
            epoch_of,
        )
