"""Fashion-IQ's raw layout: caption and split files, images by id, and the variants of both that are found in the wild."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from typing_extensions import NotRequired, TypedDict

from unifashion_pl.data.plan import MissingDataError, listing, shortened, twice
from unifashion_pl.data.texts import EDGES
from unifashion_pl.reading import FormatError, converted, is_inside, read_json

CATEGORIES = ("dress", "shirt", "toptee")
SPLITS = ("train", "val", "test")
EXTENSIONS = (".jpg", ".jpeg", ".png")
PUBLISHED_ENTRIES = {
    "train": {"dress": 5985, "shirt": 5988, "toptee": 6027},
    "val": {"dress": 2017, "shirt": 2038, "toptee": 1961},
    "test": {"dress": 2024, "shirt": 2038, "toptee": 2056},
}
PUBLISHED_GALLERY = {"dress": 3817, "shirt": 6346, "toptee": 5373}


class CaptionEntry(NamedTuple):
    """A caption file's entry: reference + two texts -> target ("" in the test split)."""

    category: str
    position: int
    reference: str
    target: str
    captions: tuple[str, ...]


class ImageFolder:
    """Where the image of an id is: ``images/ID.jpg`` or ``.png``, ``<category>/ID.jpg`` and the same below ``image_data`` or
    ``resized_images``.

    Args:
        root: of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        above = [root / name for name in ("images", "image_data", "resized_images", "")]
        self.folders = [f for folder in above for f in (folder, *(folder / c for c in CATEGORIES)) if f != root and f.is_dir()]
        self.found: dict[tuple[str, str], Path] = {}
        self.twice: set[str] = set()
        for folder in self.folders:
            category = folder.name if folder.name in CATEGORIES else ""
            for name in sorted(os.listdir(folder)):
                stem, extension = os.path.splitext(name)
                if extension.lower() not in EXTENSIONS:
                    continue
                if (stem, category) in self.found:
                    self.twice.add(stem)
                else:
                    self.found[stem, category] = folder / name

    def path(self, id: str, category: str) -> Path:
        """The file of an id; a path that does not exist if there is none."""
        there = (self.found.get((id, place)) for place in ("", category, *CATEGORIES))
        return next(filter(None, there), self.root / "images" / f"{id}.jpg")

    @property
    def ids(self) -> set[str]:
        """Ids that have a file."""
        return {id for id, _ in self.found}


class RawFashionIQ:
    """The dataset as downloaded.

    Args:
        root: with ``captions/``, ``image_splits/`` and images.

    Raises:
        MissingDataError: the annotations are absent or have another shape, with what was found.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("captions", "image_splits"):
            if not (root / folder).is_dir():
                raise MissingDataError(
                    f"{root}: no folder {folder} (found: {listing(root)}). Expected captions/, image_splits/ and images/ as in "
                    "github.com/XiaoxiaoGuo/fashion-iq; the images have to be collected by id"
                )
        self._entries: dict[tuple[str, str], list[CaptionEntry]] = {}
        self._ids: dict[tuple[str, str], list[str]] = {}

    @cached_property
    def images(self) -> ImageFolder:
        """Image files by id."""
        return ImageFolder(self.root)

    def file(self, kind: Literal["caption", "split"], category: str, split: str) -> Path:
        """``captions/cap.dress.train.json`` or ``image_splits/split.dress.train.json``."""
        folder, name = {"caption": ("captions", "cap"), "split": ("image_splits", "split")}[kind]
        return self.root / folder / f"{name}.{category}.{split}.json"

    def files(self, split: str) -> list[Path]:
        """All annotation files of a split."""
        return [self.file(kind, category, split) for category in CATEGORIES for kind in ("caption", "split")]

    def entries(self, category: str, split: str) -> list[CaptionEntry]:
        """Entries in file order; padding rows (``fake_data``) are left out.

        Raises:
            MissingDataError: the file is absent, no JSON, or an entry lacks a field.
        """
        if (category, split) not in self._entries:
            path = self.file("caption", category, split)
            rows = enumerate(_read_list(path))
            self._entries[category, split] = [_entry(row, n, category, split, path) for n, row in rows if not _is_padding(row)]
        return self._entries[category, split]

    def ids(self, category: str, split: str) -> list[str]:
        """Ids of an image split in file order; entries may be ids or objects with ``image``.

        Raises:
            MissingDataError: the file is absent, no JSON, or lists an id twice.
        """
        if (category, split) not in self._ids:
            path = self.file("split", category, split)
            rows = {f"{path}: entry {n}": row for n, row in enumerate(_read_list(path))}
            found = {where: _convert(row, str | _SplitRow, where, "an id") for where, row in rows.items()}
            ids = [_name(row["image"] if isinstance(row, dict) else row, where) for where, row in found.items()]
            if again := twice(ids):
                raise MissingDataError(f"{path}: {len(again)} ids are listed twice: {shortened(again)}")
            self._ids[category, split] = ids
        return self._ids[category, split]

    def category_of(self, split: str) -> dict[str, str]:
        """Distinct ids of all categories' splits, each with the first category that lists it."""
        found: dict[str, str] = {}
        for category in CATEGORIES:
            for id in self.ids(category, split):
                found.setdefault(id, category)
        return found

    def notes(self, split: str) -> list[str]:
        """Counts that differ from the published ones, empty captions, references or targets that their own split does not list."""
        notes = []
        for category in CATEGORIES:
            entries, ids = self.entries(category, split), set(self.ids(category, split))
            if len(entries) != PUBLISHED_ENTRIES[split][category]:
                notes.append(
                    f"{category} {split}: {len(entries):,} entries, published are {PUBLISHED_ENTRIES[split][category]:,}"
                )
            if split == "val" and len(ids) != PUBLISHED_GALLERY[category]:
                notes.append(f"{category} {split}: {len(ids):,} gallery images, published are {PUBLISHED_GALLERY[category]:,}")
            empty = [[not text.strip(EDGES) for text in e.captions] for e in entries]
            if mute := sum(all(texts) for texts in empty):
                notes.append(f"{category} {split}: {mute:,} entries have no text at all")
            if partly := sum(any(texts) and not all(texts) for texts in empty):
                notes.append(f"{category} {split}: {partly:,} entries have an empty caption, which drops out")
            strangers = sorted({i for e in entries for i in (e.reference, e.target) if i and i not in ids})
            if strangers:
                notes.append(
                    f"{category} {split}: {len(strangers)} references or targets are not in the image split: {shortened(strangers)}"
                )
        return notes

    def variant(self) -> str:
        """Names of the image folders and their extensions, and in what the annotation files differ from the published ones."""
        extensions = sorted({path.suffix for path in self.images.found.values()})
        said = [f"images in {self._layout()}" + (f" ({', '.join(extensions)})" if extensions else "")]
        rows = [row for c in CATEGORIES for row in _read_list(self.file("caption", c, "val"))]
        if any(map(_is_padding, rows)):
            said.append("caption files with padding rows (fake_data)")
        if any(isinstance(row, dict) and "target_caption" in row for row in rows):
            said.append("caption files with target_caption")
        if any(isinstance(row, dict) for c in CATEGORIES for row in _read_list(self.file("split", c, "val"))):
            said.append("split files of objects")
        return "; ".join(said)

    def _layout(self) -> str:
        return ", ".join(str(f.relative_to(self.root)) for f in self.images.folders) or "no folder of images"

    def findings(self) -> list[str]:
        """Which layout the images have and how many files belong to no listed id."""
        splits = [s for s in SPLITS if self.file("split", CATEGORIES[0], s).is_file()]
        listed = [id for split in splits for category in CATEGORIES for id in self.ids(category, split)]
        counts = f"{len(listed):,} ids listed, {len(set(listed)):,} distinct, {len(self.images.ids):,} files"
        notes = [f"images in: {self._layout()}; {counts}"]
        if beyond := sorted(self.images.ids - set(listed)):
            notes.append(f"{len(beyond):,} image files belong to no listed id: {shortened(beyond)}")
        if self.images.twice:
            notes.append(
                f"{len(self.images.twice):,} ids have several image files, the first is used: {shortened(sorted(self.images.twice))}"
            )
        return notes


class _CaptionRow(TypedDict):
    """An entry of a caption file; what else it says is not read."""

    candidate: str | int
    captions: list[str]
    target: NotRequired[str | int | None]


class _SplitRow(TypedDict):
    """An entry of a split file that lists objects."""

    image: str | int


def _read_list(path: Path) -> list[Any]:
    try:
        content: list[Any] = read_json(path, list[Any], "a list")
    except FileNotFoundError as error:
        raise MissingDataError(f"{path} is missing; it is part of github.com/XiaoxiaoGuo/fashion-iq") from error
    except FormatError as error:
        raise MissingDataError(f"{error}; download it again from github.com/XiaoxiaoGuo/fashion-iq") from error
    return content


def _convert(row: Any, kind: Any, where: str, expected: str) -> Any:
    try:
        return converted(row, kind, where, expected)
    except FormatError as error:
        raise MissingDataError(f"{error} (found {str(row)[:80]})") from error


def _name(found: str | int, where: str) -> str:
    """An id, which becomes a part of a file's name."""
    id = str(found)
    if not is_inside(id) or "/" in id or "\\" in id:
        raise MissingDataError(f"{where}: the id {id[:80]!r} is no name of an image")
    return id


def _is_padding(row: Any) -> bool:
    return isinstance(row, dict) and bool(row.get("fake_data"))


def _entry(row: Any, position: int, category: str, split: str, path: Path) -> CaptionEntry:
    where = f"{path}: entry {position}"
    found = _convert(row, _CaptionRow, where, "{candidate: id, captions: [texts], target: id}")
    target = _name(found["target"], where) if found.get("target") else ""
    if split != "test" and not target:
        raise MissingDataError(f"{where} has no target; only the test split goes without")
    return CaptionEntry(category, position, _name(found["candidate"], where), target, tuple(found["captions"]))
