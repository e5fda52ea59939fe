"""FashionGen as other projects keep it: PNG files with one JSON a split (FAME-ViL), or JSON beside the HDF5 files (FashionSAP)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from unifashion_pl.data.plan import Item, MissingDataError, Plan, in_order, shortened, size_notes, twice
from unifashion_pl.data.recipes import ImageRecipe, ImageSpec
from unifashion_pl.reading import FormatError, is_inside, read_json

#: Split -> names of FAME-ViL's list, and of its folder of images.
LISTS = {"train": ("train_info.json",), "validation": ("val_info.json", "validation_info.json")}
FOLDERS = {"train": ("train", ""), "validation": ("val", "validation", "")}
SHARD_SIZE = 2048


class FashionGenFilesRecipe(ImageRecipe):
    """Images of products -> ``image`` (the PNG file as it is) and ``meta.json``."""

    def meta(self, item: Item) -> dict[str, Any]:
        return {**item.spec.meta, "id": item.key}


def find_list(root: Path, split: str) -> Path | None:
    """FAME-ViL's list of a split, if it is there."""
    return next((root / name for name in LISTS[split] if (root / name).is_file()), None)


class ListedProduct(TypedDict):
    """An entry of FAME-ViL's lists; what else it says is not read."""

    id: str | int
    title: str
    description: str
    images: list[str]
    category_id: NotRequired[str | int | None]
    subcategory_id: NotRequired[str | int | None]


def read_list(path: Path) -> list[ListedProduct]:
    """Products of a list.

    Raises:
        MissingDataError: not a list of objects with id, title, description and images.
    """
    expected = "a list of {id, title, description, images: [files], category_id, subcategory_id}"
    try:
        content: list[ListedProduct] = read_json(path, list[ListedProduct], expected)
    except FormatError as error:
        raise MissingDataError(str(error)) from error
    if not content:
        raise MissingDataError(f"{path} is empty; expected is {expected}")
    for number, entry in enumerate(content):
        if outside := [name for name in entry["images"] if not is_inside(name)]:
            raise MissingDataError(f"{path}: entry {number} names the image {outside[0][:80]!r}, which leads out of its folder")
    return content


def plan_split(root: Path, split: str, published: int) -> Plan:
    """Plan of one split of FAME-ViL's files; a row is an image, as in the HDF5 files.

    Raises:
        MissingDataError: as :func:`read_list`, or an id twice.
    """
    path = find_list(root, split)
    assert path is not None
    entries = read_list(path)
    if again := twice(str(entry["id"]) for entry in entries):
        raise MissingDataError(f"{path}: {len(again):,} ids are there twice: {shortened(again)}")
    places = [root / name for name in FOLDERS[split]]
    first = next((image for entry in entries for image in entry["images"]), "")
    folder = next((place for place in places if os.path.isfile(place / first)), places[0])
    views = [(entry, view) for entry in entries for view in range(len(entry["images"]))]
    items = [_item(n, view, entry, split) for n, (entry, view) in enumerate(views)]
    notes = [f"{len(items):,} images, {len(entries):,} products"]
    notes += size_notes(split, len(items), published, "rows", 0)
    if mute := sum(not entry["description"].strip() for entry in entries):
        notes.append(f"{mute:,} products have no description")
    return Plan(
        dataset="fashiongen",
        split=split,
        kind="pairs",
        items=in_order(items, split, "fashiongen"),
        recipe=FashionGenFilesRecipe(folder),
        fields=("image", "meta"),
        root=root,
        sources=[path],
        shard_size=SHARD_SIZE,
        notes=notes,
    )


def _item(number: int, view: int, entry: ListedProduct, split: str) -> Item:
    """A row; ids of the lists count from the start in each split, so that a product's name has the split in front."""
    category, subcategory = (str(entry.get(name, "")) for name in ("category_id", "subcategory_id"))
    meta = {
        "product": f"{split}/{entry['id']}",
        "name": entry["title"],
        "description": entry["description"],
        "category": category,
        "subcategory": subcategory,
        "row": number,
        "view": view,
    }
    return Item(f"r{number:07d}", category or "all", ImageSpec(meta, entry["images"][view]))


def sap_notes(root: Path, split: str, products: list[int]) -> list[str]:
    """What FashionSAP's lists beside an HDF5 file say otherwise; empty if they are absent or agree.

    Args:
        products: product of every row of the file.
    """
    path = root / split / "productid_list.json"
    if not path.is_file():
        return []
    try:
        content = read_json(path, list[tuple[int | str, list[Any]]], "a list of [product, [rows]]")
        listed = [int(product) for product, rows in content for _ in rows]
    except ValueError as error:
        return [f"{path.relative_to(root)} is no list of [product, [rows]] ({error}); it is not used"]
    return [] if listed == products else [f"{path.relative_to(root)} disagrees with the HDF5 file, which is used"]
