"""What is known of an image beside its vectors, as callers give it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unifashion_pl.arguments import ArgumentError, plain, shown

#: Whole and decimal numbers; what begins with a needless 0, as codes and telephone numbers do, is text.
NUMERAL = re.compile(r"[+-]?(0|[1-9]\d{0,17})(\.\d+)?")
Value = str | int | float | None


@dataclass(frozen=True)
class IndexItem:
    """A row of an index.

    Attributes:
        caption: "" = none. image: path of the picture, None where it had none.
        product: what it is a view of; None = a product by itself. columns: any further values.
    """

    id: str
    caption: str = ""
    image: str | None = None
    product: str | None = None
    columns: Mapping[str, Value] = field(default_factory=dict)


def picture_path(image: Any) -> str | None:
    """The whole path of an image that was given as one."""
    return os.path.abspath(image) if isinstance(image, str | Path) else None


def values_of(row: Mapping[str, Any], id: str) -> dict[str, Value]:
    """A row's further values as an index keeps them: texts, and numbers that SQL can hold; what is NaN has no value.

    Raises:
        ArgumentError: another kind of value, or a name that is no text.
    """
    out: dict[str, Value] = {}
    for name, given in row.items():
        value = plain(given)
        if isinstance(value, bool):
            value = int(value)
        if isinstance(value, float) and value != value:
            value = None
        if not isinstance(name, str) or not name.strip() or "`" in name:
            raise ArgumentError(f"a column is called {name!r}, expected a text without backquotes")
        if not isinstance(value, str | int | float | None) or (isinstance(value, int | float) and abs(value) >= 2**63):
            raise ArgumentError(f"the column {name!r} of {id!r} holds {shown(given)}, expected a text or a number")
        out[name] = value
    return out


def check_lengths(images: int, columns: Mapping[str, Sequence[Any] | None]) -> None:
    """Refuse columns that are not as long as the images are many."""
    for what, column in columns.items():
        if column is not None and len(column) != images:
            raise ValueError(f"{images} images but {len(column)} {what}")


def typed(rows: Sequence[Mapping[str, str]], known: Mapping[str, str]) -> list[dict[str, Value]]:
    """Cells of a CSV as values: a column whose cells are all numbers holds numbers, and so does one that does already.

    Args:
        rows: cells by the names of their columns; an absent one is empty.
        known: ``number`` or ``text`` of columns that an index has.

    Raises:
        ArgumentError: a text in a column of numbers.

    >>> typed([{"price": "9.50", "size": "38"}, {"price": "12", "size": "M"}], {})
    [{'price': 9.5, 'size': '38'}, {'price': 12, 'size': 'M'}]
    """
    kinds: dict[str, str] = {}
    for row in rows:
        for name, cell in row.items():
            if not NUMERAL.fullmatch(cell):
                if known.get(name) == "number":
                    raise ArgumentError(f"the column {name!r} of this index holds numbers, and the CSV has {cell!r} there")
                kinds[name] = "text"
    kinds |= known
    return [
        {name: cell if kinds.get(name) == "text" else float(cell) if "." in cell else int(cell) for name, cell in row.items()}
        for row in rows
    ]
