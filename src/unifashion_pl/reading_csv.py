"""CSV files that other people wrote, read strictly: no row is lost, and every message names the line that it is about."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from unifashion_pl.reading import FormatError, read_text

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
#: Excel writes, and reads, the separator in a line above the header.
HINT = re.compile(r"sep=(.)(\r\n|\n|\r)", re.IGNORECASE)
QUOTED = re.compile(r' *"[^"]*(?:""[^"]*)*"?')
LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class CsvRow:
    """A row: the line it starts in (from 1) and its cells, as many as the header has."""

    line: int
    cells: list[str]


@dataclass(frozen=True)
class CsvTable:
    """A CSV file.

    Attributes:
        header: names of the columns, without blanks around them.
        rows: in file order; rows whose cells are all empty are left out.
        empty: lines of those.
        separator: one of :data:`SEPARATORS`.
    """

    header: list[str]
    rows: list[CsvRow]
    empty: list[int]
    separator: str


def read_table(path: str | Path) -> CsvTable:
    """A CSV file with a header; the separator is a comma, or what the header has instead.

    Quotes follow RFC 4180: a cell in quotes may hold separators and line breaks, and doubled quotes. Quotes inside of a cell that does
    not begin with one are text.

    Raises:
        FileNotFoundError: no such file.
        FormatError: no UTF-8; a quote that is not closed, or text behind one that is; a row of more or fewer cells than the header. With
            the line in which it begins.
    """
    return parse_table(read_text(path), str(path))


def parse_table(text: str, where: str) -> CsvTable:
    """The table of a text; errors as in :func:`read_table`.

    >>> parse_table("a;b\\n1;2\\n", "x.csv").rows
    [CsvRow(line=2, cells=['1', '2'])]
    """
    hint = HINT.match(text)
    skipped = 1 if hint else 0
    body = text[hint.end() :] if hint else text
    separator = hint[1] if hint else _separator(body)
    records = _records(body, separator, where, skipped)
    header = [name.strip() for name in next(records, CsvRow(1, [])).cells]
    rows: list[CsvRow] = []
    empty: list[int] = []
    for row in records:
        if not any(cell.strip() for cell in row.cells):
            empty.append(row.line)
        elif len(row.cells) != len(header):
            raise FormatError(_other_count(row, header, separator, where))
        else:
            rows.append(row)
    return CsvTable(header, rows, empty, separator)


def _separator(text: str) -> str:
    """What the first line has most of outside of quotes; the comma where nothing has more."""
    first = re.sub(r'"[^"]*"', "", re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0])
    return max(SEPARATORS, key=first.count)


def _records(text: str, separator: str, where: str, skipped: int) -> Iterator[CsvRow]:
    """Rows with the lines they begin in; lines without any character are no rows."""
    lines = StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=separator != " ")
    start = 1
    try:
        for cells in reader:
            if cells:
                yield CsvRow(start + skipped, cells)
            start = reader.line_num + 1
    except csv.Error as error:
        raise FormatError(_broken(text, separator, start, reader.line_num, skipped, where, error)) from error


def _broken(text: str, separator: str, start: int, end: int, skipped: int, where: str, error: csv.Error) -> str:
    """What is wrong with the row that begins in line ``start`` and was given up in line ``end``."""
    lines = list(StringIO(text, newline=""))
    opened = start + _quote_opens("".join(lines[start - 1 : end]), separator)
    place = f"{where}:{opened + skipped}"
    if "limit" in str(error):
        return f"{place}: a cell of more than {csv.field_size_limit():,} characters; is a quote that opens here never closed?"
    if "expected after" in str(error):
        reason = "text follows the quote that closes a cell" + (f" in line {end + skipped}" if end > opened else "")
    else:
        reason = "a quote opens a cell and is never closed, so that the rows behind it would be lost"
    shown = lines[opened - 1].strip()[:80]
    return f"{place}: {reason}: {shown!r}. Close it; a quote inside of a cell in quotes is written twice"


def _quote_opens(record: str, separator: str) -> int:
    """In which line of a broken record, from 0, the quoted cell begins that breaks it: the first with text behind it, else the last."""
    opened = place = 0
    plain = re.compile(rf"[^{re.escape(separator)}\r\n]*")
    while place < len(record):
        quoted = QUOTED.match(record, place)
        if quoted:
            opened, place = place, quoted.end()
        end = plain.match(record, place)
        assert end is not None
        if quoted and end.end() > place:
            break
        place = end.end() + 1
    return len(LINE_END.findall(record, 0, opened))


def _other_count(row: CsvRow, header: Sequence[str], separator: str, where: str) -> str:
    said = f"{where}:{row.line}: {len(row.cells)} cells, but the header has {len(header)}"
    more = row.cells[len(header) :]
    if more and not any(cell.strip() for cell in more):
        return f"{said}: the row ends with {SEPARATORS.get(separator, repr(separator))} that the header lacks; write them there too"
    if more:
        name = SEPARATORS.get(separator, repr(separator))
        return f"{said}: {', '.join(more)[:80]!r} is too much; a text with {name} has to stand in quotes"
    return f"{said}: nothing stands for {', '.join(header[len(row.cells) :])[:80]}; is the row cut off?"
