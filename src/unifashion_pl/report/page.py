"""Templates, and what they share: number formats, numbered captions, embedded pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from textwrap import shorten
from typing import Any

from jinja2 import Environment

from unifashion_pl.metrics.lines import PersonLine, Repainted, place
from unifashion_pl.pages import address, environment
from unifashion_pl.report import compare, curves, explain, tables

#: Bytes of a picture that a page takes in; thumbnails and generated images have less than a million.
LARGEST = 32 << 20
TYPES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


class Page:
    """State of one rendering: counts tables and figures, and notes the pictures that are not there."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.missing: list[str] = []

    def number(self, kind: str) -> int:
        """The next number of a ``Table`` or ``Figure``."""
        self.counts[kind] += 1
        return self.counts[kind]

    def picture(self, path: Path) -> str | None:
        """The file as a data URI; None where it is missing, too large or of another kind."""
        kind = TYPES.get(path.suffix.lower())
        if kind is None or not path.is_file() or path.stat().st_size > LARGEST:
            self.missing.append(path.name)
            return None
        return address(path.read_bytes(), kind)


def render(template: str, **values: Any) -> str:
    """A template of this package, filled in. What HTML templates are given is escaped, wherever it comes from."""
    return ENVIRONMENT.get_template(f"{template}.j2").render(page=Page(), **values)


def figure(value: float | None, digits: int = 2) -> str:
    """A number for a table cell, a dash for none.

    >>> figure(12.345), figure(None)
    ('12.35', '–')
    """
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign, zero without, a dash for none.

    >>> signed(1.234), signed(-0.5, 1), signed(-0.001), signed(None)
    ('+1.23', '−0.5', '0.00', '–')
    """
    if value is None:
        return "–"
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


def p_value(p: float) -> str:
    """A p value as tables print it.

    >>> p_value(0.0312), p_value(1e-9), p_value(1.0)
    ('0.031', '<0.001', '1')
    """
    return "<0.001" if p < 0.001 else "1" if p > 0.9995 else f"{p:.3f}"


def count(value: int | None) -> str:
    """A number of things, a dash for none.

    >>> count(12345), count(None)
    ('12,345', '–')
    """
    return "–" if value is None else f"{value:,}"


def duration(seconds: float) -> str:
    """For people.

    >>> duration(61.2), duration(7384), duration(3.14)
    ('1 min 1 s', '2 h 3 min', '3.1 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def clip(text: str, limit: int = 400) -> str:
    """A query or caption on one line, cut at ``limit`` characters.

    >>> clip("a  long dress", 7)
    'a long…'
    """
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def prefixes(names: Sequence[str]) -> list[tuple[str, int]]:
    """Runs of names that share the part before the slash.

    >>> prefixes(["mean/R@10", "mean/R@50", "Avg"])
    [('mean', 2), ('Avg', 1)]
    """
    return [(name, len(list(group))) for name, group in groupby(names, key=lambda name: name.partition("/")[0])]


def painted(line: PersonLine, kind: str) -> dict[str, Repainted]:
    """What was painted of a person in an edit of that kind, by variant."""
    return {name: made for name, made in line.made.items() if name.split("/")[0] == kind}


def _environment() -> Environment:
    """Everything that HTML templates are given is escaped, wherever it comes from; a name that is not there is an error."""
    made = environment("unifashion_pl.report", lambda name: name is None or not name.endswith(".md.j2"))
    formats = (figure, signed, p_value, count, duration, clip, shorten, prefixes, painted, curves.number)
    queries = (place, *explain.FILTERS)
    records = (
        tables.flags,
        tables.value_text,
        tables.interval_text,
        tables.grouped,
        tables.scale,
        tables.standard_error,
        compare.reach,
    )
    made.filters.update({function.__name__: function for function in (*formats, *queries, *records)})
    made.tests["painted"] = painted
    names = ("GALLERIES", "VARIANTS", "MEANINGS", "SCORES")
    made.globals.update(zip=zip, **{name: getattr(tables, name) for name in names})
    return made


ENVIRONMENT = _environment()
