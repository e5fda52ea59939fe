"""FashionGen: two HDF5 files (or other projects' files) -> image–text pairs.

One row is one view of a product; rows of a product are consecutive. The test split was never released, so validation serves as both.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
from PIL import Image
from unifashion_pl.datamodules import fashiongen_files
from unifashion_pl.datamodules.base import FashionDataModule
from unifashion_pl.datamodules.fashiongen_h5 import IMAGES, NEEDED, PRODUCTS, TEXTS, column, image_row, open_file

from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.decode import BadInput, encode_jpeg, encode_png
from unifashion_pl.data.plan import (
    BadSample,
    Input,
    Item,
    Made,
    MissingDataError,
    Plan,
    compact_json,
    listing,
    size_notes,
)
from unifashion_pl.data.recipes import encoder_versions, pixel_hash
from unifashion_pl.data.texts import PairText

__all__ = ["NEEDED", "FashionGenDataModule", "FashionGenRecipe", "open_file", "plan_split", "plans", "read_rows"]

SPLITS = ("train", "validation")
PUBLISHED = {"train": 260_480, "validation": 32_528}
QUALITY = 95
SHARD_SIZE = 2048
LICENCE = "the authors' own terms, on registration"
PUBLISHED_SAMPLES = {"pairs-train": PUBLISHED["train"], "pairs-validation": PUBLISHED["validation"]}


def find_file(root: Path, split: str) -> Path:
    """The HDF5 file of a split, whatever the size in its name.

    Raises:
        MissingDataError: none or several, with what is there.
    """
    found = sorted(root.glob(f"*_{split}.h5"))
    if len(found) == 1:
        return found[0]
    raise MissingDataError(
        f"{root}: expected one file fashiongen_256_256_{split}.h5, found {len(found)} such files ({listing(root)}), "
        f"or FAME-ViL's {fashiongen_files.LISTS[split][0]} with a folder of images. FashionGen is handed out by its authors after registration"
    )


def decode_text(value: bytes | str) -> tuple[str, bool]:
    """UTF-8 if it is valid, else Latin-1; and whether it was Latin-1.

    >>> decode_text("Café".encode("latin-1"))
    ('Café', True)
    """
    if isinstance(value, str):
        return value, False
    try:
        return value.decode("utf-8"), False
    except UnicodeDecodeError:
        return value.decode("latin-1"), True


def read_rows(file: h5py.File) -> tuple[list[dict[str, Any]], int]:
    """Texts and product of every row, and how many texts were Latin-1.

    Raises:
        MissingDataError: a product is not a whole number, or its rows are not consecutive.
    """
    columns = {name: [decode_text(v) for v in column(file, name)] for name in TEXTS}
    try:
        products = [int(p) for p in column(file, PRODUCTS)]
    except ValueError as error:
        raise MissingDataError(f"{file.filename}: {PRODUCTS}: expected whole numbers ({error})") from error
    fallbacks = sum(latin for column in columns.values() for _, latin in column)
    rows: list[dict[str, Any]] = []
    finished: set[int] = set()
    for number, product in enumerate(products):
        new = number == 0 or product != products[number - 1]
        if new and product in finished:
            raise MissingDataError(
                f"{file.filename}: product {product} comes back at row {number}; rows of a product are expected to be consecutive"
            )
        finished.add(product)
        view = 0 if new else rows[-1]["view"] + 1
        texts = {name.removeprefix("input_"): columns[name][number][0] for name in TEXTS}
        rows.append({**texts, "product": product, "row": number, "view": view})
    return rows, fallbacks


class RowSpec(NamedTuple):
    """A row: ``meta.json`` without ``id``."""

    meta: dict[str, Any]


class FashionGenRecipe:
    """Rows -> ``image.jpg`` (4:4:4) or ``image.png`` and ``meta.json``; the file is opened once per process.

    Args:
        path: HDF5 file.
        quality: of JPEG; None writes PNG.
    """

    def __init__(self, path: Path, quality: int | None = QUALITY) -> None:
        self.path, self.quality = path, quality

    def inputs(self, item: Item) -> list[Input]:
        """None: the images are inside the file."""
        return []

    def make(self, items: Sequence[Item]) -> Iterator[tuple[Item, Made | BadSample]]:
        """Rows are read in file order, so that every chunk is unpacked once, and handed out in the items' order."""
        with open_file(self.path) as file:
            images = file[IMAGES]
            made = {i.spec.meta["row"]: self._sample(images, i) for i in sorted(items, key=lambda item: item.spec.meta["row"])}
        for item in items:
            yield item, made[item.spec.meta["row"]]

    def _sample(self, images: h5py.Dataset, item: Item) -> Made | BadSample:
        meta = item.spec.meta
        try:
            image = Image.fromarray(image_row(images, meta["row"]))
        except BadInput as error:
            return BadSample(item.key, "image", error.reason)
        name, data = (
            ("image.png", encode_png(image)) if self.quality is None else ("image.jpg", encode_jpeg(image, self.quality))
        )
        return Made({name: data, "meta.json": compact_json({**meta, "id": item.key})}, item.key, pixel_hash(image))


def plan_split(root: Path, split: str, *, lossless: bool = False, shard_size: int = SHARD_SIZE) -> Plan:
    """Plan of one split, from its HDF5 file or from FAME-ViL's files.

    Args:
        lossless: (HDF5) PNG instead of JPEG 95; three times the size.

    Raises:
        MissingDataError: as :func:`find_file`, :func:`open_file` and :func:`read_rows`.
    """
    if fashiongen_files.find_list(root, split) is not None and not list(root.glob(f"*_{split}.h5")):
        return fashiongen_files.plan_split(root, split, PUBLISHED[split])
    path = find_file(root, split)
    with open_file(path) as file:
        rows, fallbacks = read_rows(file)
        chunk = file[IMAGES].chunks
    order = _shuffle(len(rows), chunk[0] if chunk else 1, shard_size) if split == "train" else range(len(rows))
    notes = [f"{len(rows):,} rows, {len({r['product'] for r in rows}):,} products"]
    mute = sum(not row["description"].strip() for row in rows)
    notes += size_notes(split, len(rows), PUBLISHED[split], "rows", mute)
    if fallbacks:
        notes.append(f"{fallbacks:,} texts are Latin-1, the others UTF-8")
    notes += fashiongen_files.sap_notes(root, split, [row["product"] for row in rows])
    return Plan(
        dataset="fashiongen",
        split=split,
        kind="pairs",
        items=[Item(f"r{n:07d}", rows[n]["category"], RowSpec({**rows[n], "source": {"file": path.name}})) for n in order],
        recipe=FashionGenRecipe(path, None if lossless else QUALITY),
        fields=("image", "meta"),
        root=root,
        options={"image": "png" if lossless else f"jpeg {QUALITY} 4:4:4"},
        encoders=encoder_versions(),
        sources=[path],
        shard_size=shard_size,
        notes=notes,
    )


def _shuffle(rows: int, chunk: int, shard: int) -> list[int]:
    """A fixed permutation that opens every HDF5 chunk in one shard only: chunks permuted, then rows inside a shard's worth of chunks."""
    rng = random.Random("fashiongen")
    chunks = [list(range(start, min(start + chunk, rows))) for start in range(0, rows, chunk)]
    rng.shuffle(chunks)
    together = max(1, shard // chunk)
    order: list[int] = []
    for first in range(0, len(chunks), together):
        part = [row for members in chunks[first : first + together] for row in members]
        rng.shuffle(part)
        order += part
    return order


def plans(root: Path, **options: Any) -> Iterable[Plan]:
    """Plans of both splits; options as for :func:`plan_split`."""
    return [plan_split(Path(root), split, **options) for split in SPLITS]


def variant(root: Path) -> str:
    """Which copy this is."""
    root = Path(root)
    if not list(root.glob("*_train.h5")) and fashiongen_files.find_list(root, "train"):
        return "FAME-ViL's PNG files and JSON lists"
    if (root / "train" / "productid_list.json").is_file():
        return "HDF5 files, prepared for FashionSAP"
    return "HDF5 files"


class FashionGenDataModule(FashionDataModule):
    """FashionGen for retrieval and captions; validation rows (all views) serve validation and test.

    Args:
        text: rule of the retrieval text.
        caption: rule of the captioning target.
        **common: see :class:`~unifashion_pl.datamodules.base.FashionDataModule`.
    """

    stream = "pairs"
    plans = staticmethod(plans)
    train_folder, eval_folders = "pairs-train", ("pairs-validation",)

    def __init__(
        self,
        root: str | Path | None = None,
        shards: str | Path | None = None,
        *,
        text: PairText = "name_description",
        caption: PairText = "description",
        **common: Any,
    ) -> None:
        super().__init__(root, shards, **common)
        self.text, self.caption = text, caption

    def assembler(self) -> PairAssembler:
        """Makes :class:`PairBatch`."""
        return PairAssembler(self.encoder, self.pixels, self.text, self.caption, style="fashiongen")
