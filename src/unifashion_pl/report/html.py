"""Small pieces of HTML: escaping, tables, numbered captions, embedded pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

#: Bytes of a picture that a page takes in; thumbnails and generated images have less than a million.
LARGEST = 32 << 20
TYPES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


@dataclass
class Page:
    """Body parts in order; numbers tables and figures, and embeds every picture once as a CSS-free ``<img>``.

    Attributes:
        parts: HTML fragments.
        missing: pictures that were named by a prediction file but are not there.
    """

    parts: list[str] = field(default_factory=list)
    contents: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def add(self, *fragments: str) -> None:
        self.parts += [f for f in fragments if f]

    def section(self, anchor: str, title: str) -> None:
        self.contents.append((anchor, title))
        self.add(f'<h2 id="{anchor}"><span class="no">{len(self.contents)}</span>{escape(title)}</h2>')

    def caption(self, kind: str, text: str) -> str:
        """``Table 3. text`` with a number of its own; ``text`` is HTML."""
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return f'<p class="caption"><b>{kind} {self._numbers[kind]}.</b> {text}</p>'

    def picture(self, path: Path, alt: str, css: str = "") -> str:
        """The file as a data URI, or a hatched place holder when it is missing or too large."""
        kind = TYPES.get(path.suffix.lower())
        if kind is None or not path.is_file() or path.stat().st_size > LARGEST:
            self.missing.append(path.name)
            return f'<span class="nopic {css}" role="img" aria-label="{escape(alt)} (no picture)"></span>'
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        return f'<img class="{css}" alt="{escape(alt)}" src="data:image/{kind};base64,{data}">'

    def tile(self, path: Path, label: str, css: str = "") -> str:
        """A picture over its label."""
        return f'<figure class="tile {css}">{self.picture(path, label)}<figcaption>{escape(label)}</figcaption></figure>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], css: str = "", over: Sequence[tuple[str, int]] = ()) -> str:
    """A table of HTML cells; the first column is a row header. A row of one cell spans the table as a group title.

    ``over`` are (name as text, columns) of a header row above, for the columns after the first; ``head`` cells then lose that prefix.
    """
    above = "".join(f'<th scope="colgroup" colspan="{span}">{escape(name)}</th>' for name, span in over)
    top = f"<tr><th></th>{above}</tr>" if over else ""
    names = [cell.partition("/")[2] if over and i else cell for i, cell in enumerate(head)]
    header = "".join(f'<th scope="col">{cell}</th>' for cell in names)
    body = []
    for row in rows:
        if len(row) == 1:
            body.append(f'<tr class="group"><th scope="rowgroup" colspan="{len(head)}">{row[0]}</th></tr>')
        else:
            cells = "".join(f"<td>{cell}</td>" for cell in row[1:])
            body.append(f'<tr><th scope="row">{row[0]}</th>{cells}</tr>')
    return f'<div class="wide"><table class="{css}"><thead>{top}<tr>{header}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def details(summary: str, content: str) -> str:
    """A folded part; ``summary`` is text, ``content`` HTML."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def figure(value: float | None, digits: int = 2) -> str:
    """A number for a table cell, a dash for none.

    >>> figure(12.345), figure(None)
    ('12.35', '–')
    """
    return "–" if value is None else f"{value:.{digits}f}"


def sanitized(text: str, limit: int = 400) -> str:
    """Escaped text of a query or caption, cut at ``limit`` characters."""
    text = " ".join(text.split())
    return escape(text if len(text) <= limit else text[: limit - 1].rstrip() + "…")
