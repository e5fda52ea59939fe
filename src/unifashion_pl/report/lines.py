"""Ranks in prediction files: one meaning in every line, and a reader of the older one.

``rank`` = 1 + the number of candidates that score higher than the best right one; ``ties`` = others that score exactly as it does. A tie
counts against the query: R@K asks for ``rank + ties <= K``. The pairs in ``ranks`` and ``halves`` are [rank, ties] too. Lines carry
``schema``; lines of before 2026-11-29 have none and count from 0, some with and some without their ties.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Line = dict[str, Any]
SCHEMA = 2


def place(line: Mapping[str, Any], prefix: str = "") -> int:
    """Where the best right candidate of a line stands, from 1, behind all that score as it does.

    >>> place({"rank": 3, "ties": 2})
    5
    """
    return int(line[f"{prefix}rank"]) + int(line.get(f"{prefix}ties", 0))


def marked(lines: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Lines with the schema that they are written in."""
    return [{"schema": SCHEMA, **line} for line in lines]


def current(line: Line) -> Line:
    """A line in today's schema, whichever it was written in.

    Raises:
        ValueError: a schema of a later version.

    >>> current({"key": "q", "rank": 4, "ties": 1, "shown": True, "direction": "t2i"})["rank"]
    4
    """
    found = line.get("schema")
    if found == SCHEMA:
        return line
    if found is not None:
        raise ValueError(
            f"prediction lines have schema {found!r}, this version reads {SCHEMA} and those without: update unifashion-pl"
        )
    out: Line = {**line, "schema": SCHEMA}
    for prefix in ("", "rewritten_"):
        if isinstance(out.get(f"{prefix}rank"), int):
            # per query of a retrieval protocol, ``rank`` was the better ones alone; everywhere else ties were in it
            inside = 0 if "protocol" in line else int(line.get(f"{prefix}ties") or 0)
            out[f"{prefix}rank"] += 1 - inside
    for name in ("ranks", "halves"):
        if isinstance(pairs := line.get(name), dict):
            out[name] = {key: [better + 1, ties] for key, (better, ties) in pairs.items()}
    if isinstance(rounds := line.get("rounds"), list):
        out["rounds"] = [current({k: v for k, v in one.items() if k != "schema"}) for one in rounds]
    return out
