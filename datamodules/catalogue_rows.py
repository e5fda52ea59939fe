"""The rows of a user's own CSV file: which column is what, which file an image name means, and what is wrong with either, by line."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unifashion_pl.data.plan import shortened
from unifashion_pl.reading import FormatError
from unifashion_pl.reading_csv import SEPARATORS, CsvRow, CsvTable, read_table

COLUMNS = {
    # what we call it: names that are recognised, in the order of preference
    "image": ("image", "file", "filename", "path"),
    "text": ("text", "description", "caption"),
    "name": ("title", "name"),
    "id": ("id", "sku"),
    "category": ("category",),
    "subcategory": ("subcategory",),
    "product": ("product", "product_id"),
    "split": ("split",),
}
SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "dev": "val"}
PICTURE = re.compile(r"[^\s<>\"]+\.(jpe?g|png|webp|gif|bmp|tiff?|avif|heic|heif|jp2)", re.IGNORECASE)
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:|file:")
#: They would break the lines in which ids are listed, and may command a terminal.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
DRIVE = re.compile(r"[A-Za-z]:")
#: Longest name of a file or folder in bytes, and longest path in characters, that systems take.
LONGEST, LONGEST_PATH = 255, 2000


@dataclass(frozen=True)
class CatalogueRow:
    """A line of the CSV.

    Attributes:
        id: unique; from the column ``id``, else the image's file name without extension.
        image: the file.
        text: description; name: title; both may be "".
        product: equal for pictures of one product; the id where the CSV does not say.
        split: ``train``, ``val``, ``test``, "" where the CSV does not say, or another word that the CSV uses.
        cells: all other columns of the CSV under their own names, without empty cells; those of the attributes above too, but for the image.
    """

    id: str
    image: Path
    text: str
    name: str
    category: str
    subcategory: str
    product: str
    split: str
    cells: Mapping[str, str] = field(default_factory=dict, compare=False)


def read_catalogue(csv: str | Path, root: str | Path, columns: Mapping[str, str] | None = None) -> list[CatalogueRow]:
    """Rows of a catalogue in file order; empty rows are passed over, and how many is said.

    An image is named relative to ``root``, or by an absolute path below it; the name may not lead out of ``root``, but links inside of
    it are followed. Backslashes of Windows separate folders where no file has that name, and a name may be composed (NFC) in the one
    place and decomposed (NFD, as older Macs write it) in the other. A file need not be there; one that differs in upper and lower case
    is not taken, but said.

    Args:
        csv: UTF-8, with a header; columns as in :data:`COLUMNS`, only ``image`` is required. Cells are separated by commas, or by what
            the header has instead (semicolons, tabs, bars).
        root: folder that the image names are relative to.
        columns: own column names, e.g. ``{"text": "label"}``.

    Raises:
        FileNotFoundError: no such CSV or folder.
        ValueError: with file and line: not UTF-8, a quote that is not closed, a column is absent or ambiguous, a row has no image or
            another number of cells than the header, an image that is a URL or lies outside of ``root``, or an id that occurs twice.
    """
    csv, root = Path(csv), Path(root)
    if not csv.exists():
        raise FileNotFoundError(f"no CSV file {csv}")
    if not root.is_dir():
        raise FileNotFoundError(f"no folder of images {root}")
    table = read_table(csv)
    places = _columns(csv, table, columns or {})
    images = ImageNames(root)
    rows = [_row(row, places, images, table, f"{csv}:{row.line}") for row in table.rows]
    if not rows:
        raise FormatError(f"{csv} has a header but no rows")
    _say(csv, table, images)
    lines: dict[str, list[int]] = {}
    for row, found in zip(table.rows, rows):
        lines.setdefault(found.id, []).append(row.line)
    if twice := [f"{id} (lines {', '.join(map(str, where[:3]))})" for id, where in lines.items() if len(where) > 1]:
        hint = "" if "id" in places else "; give the rows a column id, because file names repeat"
        raise FormatError(f"{csv}: ids occur more than once: {shortened(twice)}{hint}")
    return rows


def _columns(csv: Path, table: CsvTable, own: Mapping[str, str]) -> dict[str, int]:
    """What we call it -> the number of the CSV's column, from 0."""
    header = table.header
    if not any(header):
        raise FormatError(f"{csv} is empty; expected a header with a column image")
    if unknown := set(own) - set(COLUMNS):
        raise ValueError(f"unknown entries in columns: {', '.join(sorted(unknown))}; known are {', '.join(COLUMNS)}")
    if absent := [name for name in own.values() if name.strip() not in header]:
        raise FormatError(f"{csv} has no column {absent[0]!r}; it has {_shown(header)}")
    lower = [name.lower() for name in header]
    found = {what: next((n for n in names if n in lower), None) for what, names in COLUMNS.items() if what not in own}
    if "image" not in own and found["image"] is None:
        raise FormatError(_no_image_column(csv, table))
    places = {what: _place(csv, name, lower) for what, name in found.items() if name is not None}
    return places | {what: _place(csv, name.strip(), header) for what, name in own.items()}


def _place(csv: Path, name: str, header: Sequence[str]) -> int:
    if header.count(name) > 1:
        raise FormatError(f"{csv}: {header.count(name)} columns are called {name!r}: rename those that are not meant")
    return header.index(name)


def _no_image_column(csv: Path, table: CsvTable) -> str:
    if any(PICTURE.fullmatch(cell) for cell in table.header):
        return f"{csv}:1: {', '.join(table.header)[:80]!r} is a row, no header: write one above it, e.g. image,text"
    apart = "" if len(table.header) > 1 else "; if it has more columns, separate them by commas, semicolons or tabs"
    return (
        f"{csv} has the columns {_shown(table.header)}; expected one called image with file names "
        f"(or --columns image=YOURS, in Python columns={{'image': ...}}){apart}"
    )


def _shown(header: Sequence[str]) -> str:
    """Names of columns for a message; a file that is no CSV may have anything for a header."""
    text = ", ".join(header)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _row(row: CsvRow, places: Mapping[str, int], images: ImageNames, table: CsvTable, where: str) -> CatalogueRow:
    for number, cell in enumerate(row.cells):
        if "\n" in cell or "\r" in cell:
            _check_swallowed(row, number, table.separator, where)
    values = {what: row.cells[places[what]].strip() if what in places else "" for what in COLUMNS}
    if not values["image"]:
        raise FormatError(f"{where}: no image")
    image = images.path(values["image"], where)
    id = values["id"] or Path(values["image"].replace("\\", "/")).stem
    if CONTROL.search(id):
        raise FormatError(f"{where}: the id {id[:80]!r} has a tab, a line break or another control character; take it out")
    split = values["split"].lower()
    return CatalogueRow(
        id=id,
        image=image,
        text=values["text"],
        name=values["name"],
        category=values["category"],
        subcategory=values["subcategory"] or values["category"],
        product=values["product"] or id,
        split=SPLIT_NAMES.get(split, split),
        cells={
            name: cell.strip()
            for number, (name, cell) in enumerate(zip(table.header, row.cells))
            if name and cell.strip() and number != places["image"]
        },
    )


def _check_swallowed(row: CsvRow, number: int, separator: str, where: str) -> None:
    """Refuse a cell of several lines in which further rows stand: its quote was closed by one that meant something else."""
    for line in row.cells[number].splitlines():
        parts = [part.strip() for part in line.split(separator)]
        if len(parts) > 1 and any(map(PICTURE.fullmatch, parts)):
            raise FormatError(
                f"{where}: a quote that opens in this row closes lines later, and the row {line.strip()[:60]!r} is inside of it. "
                "Close it; a quote inside of a cell in quotes is written twice"
            )


class _Folder:
    """Names in a folder: as they are, by composed accents, and by these without upper and lower case. One that cannot be listed is empty."""

    def __init__(self, path: str) -> None:
        try:
            self.names = set(os.listdir(path))
        except OSError:  # its files are found absent by those who read them
            self.names = set()
        self.composed = {_composed(name): name for name in sorted(self.names)}
        self.folded = {_composed(name).casefold(): name for name in sorted(self.names)}


class ImageNames:
    """Files that image names mean.

    Args:
        root: folder that they are relative to.

    Attributes:
        absent: (file and line, path below the root) of names asked for so far that no file has.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._bases = list(dict.fromkeys([os.path.abspath(root), os.path.realpath(root)]))
        self._folders: dict[str, _Folder] = {}
        self.absent: list[tuple[str, str]] = []

    def path(self, name: str, where: str) -> Path:
        """The file below ``root``, whether it is there or not.

        Args:
            where: file and line, for messages.

        Raises:
            FormatError: a URL, a path outside of ``root``, or what no file can be called.
        """
        if "\n" in name or "\r" in name:
            raise FormatError(f"{where}: an image name with a line break, {name[:80]!r}: is a quote closed too late?")
        if URL.match(name):
            raise FormatError(
                f"{where}: the image is a URL, {name[:80]!r}: download it into {self.root} and name the file, because images are "
                "read from a folder"
            )
        inside = self._inside(name)
        if "\\" in name and not (inside and self._is_there(inside)):
            inside = None if DRIVE.match(name) else self._inside(name.replace("\\", "/"))
        if inside is None:
            raise FormatError(
                f"{where}: {name} lies outside of {self.root}: name a folder that holds all images, or paths relative to it"
            )
        if len(inside) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST for part in inside.split("/")):
            raise FormatError(f"{where}: no file can have a name as long as {name[:60]!r}…; is a quote missing?")
        written = self._as_written(inside)
        if not self._is_there(written):
            self.absent.append((where, written))
        return self.root / written

    def other_case(self, inside: str) -> str | None:
        """A path below the root with upper and lower case as on the disk; None if nothing is called so, or exactly so."""
        found = self._as_written(inside, folded=True)
        return found if found != inside and self._is_there(found) else None

    def _inside(self, name: str) -> str | None:
        """The path relative to the root, None outside of it; ``..`` is resolved by name, as people read it."""
        whole = os.path.normpath(os.path.join(self._bases[0], name))
        for base in self._bases:
            start = base.rstrip("/") + "/"
            if whole.startswith(start):
                return whole.removeprefix(start)
        return None

    def _is_there(self, inside: str) -> bool:
        folder, name = os.path.split(inside)
        return name in self._folder(folder).names

    def _as_written(self, inside: str, folded: bool = False) -> str:
        """The path as the disk has it, if that differs only in how accents are composed, or also in upper and lower case."""
        place = ""
        for part in inside.split("/"):
            folder, plain = self._folder(place), _composed(part)
            found = folder.folded.get(plain.casefold(), part) if folded else folder.composed.get(plain, part)
            place = os.path.join(place, part if part in folder.names else found)
        return place

    def _folder(self, inside: str) -> _Folder:
        if inside not in self._folders:
            self._folders[inside] = _Folder(os.path.join(self.root, inside))
        return self._folders[inside]


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _say(csv: Path, table: CsvTable, images: ImageNames) -> None:
    """Warn of what was recognised or passed over."""
    said = []
    if table.separator != ",":
        said.append(f"cells are separated by {SEPARATORS.get(table.separator, repr(table.separator))}")
    if table.empty:
        said.append(f"{len(table.empty):,} empty rows are passed over: lines {shortened(map(str, table.empty))}")
    found = [(where, images.other_case(inside)) for where, inside in images.absent]
    others = [f"{name} (line {where.rpartition(':')[2]})" for where, name in found if name is not None]
    if others:
        said.append(
            f"{len(others):,} images are not there under their names, but under the same with other upper and lower case: "
            f"{shortened(others)}. Write the names as the files have them"
        )
    if said:
        warnings.warn(f"{csv}: {'; '.join(said)}", stacklevel=3)
