"""A user's own catalogue: a CSV file and a folder of images, used straight from the folder or through shards."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from unifashion_pl.datamodules.base import FashionDataModule
from unifashion_pl.datamodules.catalogue_rows import CatalogueRow, read_catalogue

from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.plan import Item, MissingDataError, Plan, in_order, shortened
from unifashion_pl.data.reader import PlanSource, SampleSource
from unifashion_pl.data.recipes import ImageRecipe, ImageSpec
from unifashion_pl.data.stream import EvalLoader, TrainLoader
from unifashion_pl.data.texts import PairText

SPLITS = ("train", "val", "test")
LICENCE = "your own"
PUBLISHED_SAMPLES: dict[str, int] = {}


def split_rows(rows: Sequence[CatalogueRow], val_fraction: float, group: str | None = None) -> dict[str, list[CatalogueRow]]:
    """Rows by split.

    Rows whose split the CSV does not say are divided by the hash of their product, so that views of a product stay together.
    Words other than train, val and test are splits of their own, which nothing reads.

    Args:
        group: a column of the CSV whose equal cells stay together instead, e.g. the photographer; a row without a cell there stays with
            its product.

    Raises:
        ValueError: no row has such a cell.
    """
    if group is not None and not any(group in row.cells for row in rows):
        known = sorted({name for row in rows for name in row.cells})
        raise ValueError(
            f"group is {group!r}, which no row has; the CSV's columns are {', '.join(known) or 'none but the image'}"
        )
    parts: dict[str, list[CatalogueRow]] = {}
    for row in rows:
        together = row.product if group is None else row.cells.get(group, row.product)
        share = int.from_bytes(hashlib.sha256(together.encode()).digest()[:8], "big") / 2**64
        split = row.split or ("val" if share < val_fraction else "train")
        parts.setdefault(split, []).append(row)
    return parts


def split_plans(
    rows: Sequence[CatalogueRow],
    val_fraction: float,
    root: Path,
    csv: Path,
    name: str = "catalogue",
    notes: Sequence[str] = (),
    styles: Mapping[str, str] | None = None,
    group: str | None = None,
) -> dict[str, Plan]:
    """Plans of train, val and test, as far as there are rows for them; rows of other splits are noted.

    Args:
        styles: caption style -> column of the CSV with captions in it.

    Raises:
        MissingDataError: there are no rows for any of them.
        ValueError: a column of ``styles`` has no caption at all.
    """
    for style, column in (styles or {}).items():
        if not any(column in row.cells for row in rows):
            known = ", ".join(sorted({own for row in rows for own in row.cells}))
            raise ValueError(f"{csv} has no captions for the style {style} in a column {column!r}; its columns are {known}")
    parts = split_rows(rows, val_fraction, group)
    others = {split: len(part) for split, part in parts.items() if split not in SPLITS}
    listed = shortened(f"{split} ({count:,} rows)" for split, count in others.items())
    if others:
        notes = [*notes, f"{sum(others.values()):,} rows are of other splits, which nothing reads: {listed}"]
    if len(others) == len(parts):
        raise MissingDataError(f"{csv} has rows for none of {', '.join(SPLITS)}, only for {listed or 'nothing'}")
    made = {}
    for split in (split for split in SPLITS if split in parts):
        items = []
        for number, row in enumerate(parts[split]):
            meta = {name: getattr(row, name) for name in ("id", "product", "category", "subcategory", "name")}
            captions = {style: row.cells[column] for style, column in (styles or {}).items() if column in row.cells}
            said = {"description": row.text, **({"captions": captions} if captions else {})}
            spec = ImageSpec({**meta, **said}, row.image.relative_to(root).as_posix())
            items.append(Item(f"c{number:07d}", row.category or "all", spec))
        made[split] = Plan(
            dataset=name,
            split=split,
            kind="pairs",
            items=in_order(items, split, "catalogue"),
            recipe=ImageRecipe(root),
            fields=("image", "meta"),
            root=csv.parent,
            sources=[csv],
            notes=list(notes),
        )
    return made


def find_csv(root: Path) -> Path:
    """``catalogue.csv`` of a folder, or its only CSV.

    Raises:
        MissingDataError: none, or several.
    """
    if not root.is_dir():
        raise MissingDataError(f"{root}: the folder does not exist")
    found = sorted(root.glob("*.csv"))
    named = root / "catalogue.csv"
    if named in found or len(found) == 1:
        return named if named in found else found[0]
    raise MissingDataError(
        f"{root}: expected catalogue.csv or a single .csv, found {shortened(p.name for p in found) or 'none'}"
    )


def plans(
    root: Path, csv: Path | None = None, columns: Mapping[str, str] | None = None, val_fraction: float = 0.1
) -> Iterable[Plan]:
    """Plans of the splits that the catalogue in a folder has."""
    root = Path(root)
    csv = Path(csv) if csv is not None else find_csv(root)
    return list(split_plans(read_catalogue(csv, root, columns), val_fraction, root, csv).values())


def findings(root: Path, made: Sequence[Plan]) -> list[str]:
    """Rows without a text."""
    count = sum(len(mute(plan.items)) for plan in made)
    return [f"{count:,} rows have no text"] if count else []


def mute(items: Sequence[Item]) -> list[str]:
    """Keys of the samples of which nothing is said: no title, no text, no caption in any style."""
    said = ("name", "description", "captions")
    return [item.key for item in items if not any(item.spec.meta.get(name) for name in said)]


def variant(root: Path) -> str:
    """Which CSV is read."""
    return find_csv(Path(root)).name


class CatalogueDataModule(FashionDataModule):
    """Your own catalogue as image–text pairs, for training the retrieval and caption heads on it.

    Args:
        csv: see :func:`read_catalogue`.
        root: folder of the images.
        shards: make and use shards here; None reads the images from their folder.
        columns: own column names.
        val_fraction: share of products that is kept for validation where the CSV has no split.
        group: column of the CSV by which that is done instead, so that equal cells stay together; see :func:`split_rows`.
        allow_missing: go on without the images that are not there, instead of refusing.
        text, caption: rules of the retrieval text and the captioning target.
        style: instruction style of the captions.
        styles: caption style -> column of the CSV that holds captions in it, in the place of ``style`` and ``caption``, e.g.
            ``{fashion200k: short, fashiongen: text}``. Of a photo that has several, training draws one an epoch; evaluation takes
            ``style``. A photo without any has the usual caption.
        same: what makes two samples of a batch each other's positives: the same ``product``, or the same retrieval ``text``, for
            catalogues in which many products are described alike.
        flip: chance that a training image is mirrored.
        name: of the dataset in results.
        **common: see :class:`~unifashion_pl.datamodules.base.FashionDataModule`.
    """

    stream = "pairs"

    def __init__(
        self,
        csv: str | Path,
        root: str | Path,
        shards: str | Path | None = None,
        *,
        columns: dict[str, str] | None = None,
        val_fraction: float = 0.1,
        group: str | None = None,
        allow_missing: bool = False,
        text: PairText = "name_description",
        caption: PairText = "description",
        style: str = "fashiongen",
        styles: dict[str, str] | None = None,
        same: Literal["product", "text"] = "product",
        flip: float = 0.0,
        name: str = "catalogue",
        **common: Any,
    ) -> None:
        super().__init__(root, shards, **common)
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is {flip}, expected a probability between 0 and 1")
        self.same, self.flip, self.styles = same, flip, styles
        self.shards = None if shards is None else Path(shards)
        self.csv, self.folder, self.columns, self.val_fraction = Path(csv), Path(root), columns, val_fraction
        self.group = group
        self.allow_missing, self.text, self.caption, self.style, self.name = allow_missing, text, caption, style, name
        self._plans: dict[str, Plan] = {}
        self._rows: dict[str, CatalogueRow] = {}

    def folders(self) -> Sequence[str]:
        return [plan.folder for plan in self.splits().values()]

    def plans(self, root: Path) -> Iterable[Plan]:
        return list(self.splits().values())

    def splits(self) -> dict[str, Plan]:
        """Plans of the splits that the catalogue has.

        Raises:
            MissingDataError: images are absent and ``allow_missing`` is off, or nothing is left.
        """
        if not self._plans:
            rows = read_catalogue(self.csv, self.folder, self.columns)
            absent = [row for row in rows if not os.path.isfile(row.image)]  # False also of what no system can name
            listed = shortened(row.image.relative_to(self.folder).as_posix() for row in absent)
            missing = f"{len(absent):,} of {len(rows):,} images of {self.csv} are not in {self.folder}: {listed}"
            if absent and not self.allow_missing:
                raise MissingDataError(f"{missing}. Mend the CSV or pass allow_missing=True")
            if absent:
                warnings.warn(f"{missing}. They are left out", stacklevel=2)
            gone = {row.id for row in absent}
            there = [row for row in rows if row.id not in gone]
            notes = [f"{len(absent):,} of {len(rows):,} rows have no image file and are left out: {listed}"] if absent else []
            self._rows = {row.id: row for row in there}
            said = (self.csv, self.name, notes, self.styles, self.group)
            self._plans = split_plans(there, self.val_fraction, self.folder, *said)
        return self._plans

    def rows(self, split: str) -> dict[str, CatalogueRow]:
        """Rows of a split by the keys of their samples, in the order of the samples.

        Raises:
            ValueError: there are none, as of :meth:`split_source`.
        """
        keys = self.split_source(split).keys
        ids = {item.key: item.spec.meta["id"] for item in self.splits()[split].items}
        return {key: self._rows[ids[key]] for key in keys}

    def prepare_data(self) -> None:
        """Make shards if they were asked for."""
        if self.shards is not None:
            super().prepare_data()

    def split_source(self, split: str) -> SampleSource:
        """Samples of a split, from shards or from the folder."""
        plan = self.splits().get(split)
        if plan is None:
            raise ValueError(f"{self.csv} has no rows for {split}; its splits are {', '.join(self.splits())}")
        return self.source(plan.folder) if self.shards is not None else PlanSource(plan)

    def assembler(self) -> PairAssembler:
        """Makes :class:`PairBatch`."""
        return PairAssembler(self.encoder, self.pixels, self.text, self.caption, self.style, same=self.same, flip=self.flip)

    def train_loader(self) -> TrainLoader[Any]:
        source = self.split_source("train")
        return self.training(source, self.assembler(), self.untold())

    def untold(self) -> list[str]:
        """Training samples of which nothing is said, and which are left out with a warning: "" would be learned as what they show.

        Raises:
            MissingDataError: nothing is said of any.
        """
        items = self.splits()["train"].items
        found = mute(items)
        if found and len(found) == len(items):
            raise MissingDataError(
                f"{self.csv} says nothing of any of its {len(items):,} training images: fill a column text or title, or name yours "
                "(columns: {text: label})"
            )
        if found:
            warnings.warn(
                f"{self.csv}: {len(found):,} of {len(items):,} training images have no text and are left out", stacklevel=2
            )
        return found

    def eval_loaders(self, stage: str) -> list[EvalLoader[Any]]:
        """The split of that name; validation also serves as test where there is no other."""
        split = "test" if stage == "test" and "test" in self.splits() else "val"
        return [self.evaluation(self.split_source(split), self.assembler(), stage)] if split in self.splits() else []
