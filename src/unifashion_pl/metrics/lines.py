"""Prediction files: one line per query or sample, one type per kind of line, for those who write them and those who read them.

``rank`` = 1 + the number of candidates that score higher than the best right one; ``ties`` = others that score exactly as it does. A tie
counts against the query: R@K asks for ``rank + ties <= K``. The pairs in ``ranks`` and ``halves`` are (rank, ties) too. Lines carry
``schema``; those of before 2026-11-29 have none, and :func:`current` reads them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from unifashion_pl.files import write_text
from unifashion_pl.reading import converted, read_json_lines

SCHEMA = 2
#: Galleries are far smaller; what follows from a rank is computed in as many steps.
MOST = 10_000_000
Count = Annotated[int, Meta(ge=0, le=MOST)]
Rank = Annotated[int, Meta(ge=1, le=MOST)]
RankAndTies = tuple[Rank, Count]
#: Without a folder, so that none outside of a run is ever shown.
FileName = Annotated[str, Meta(pattern=r"^[^/\\\x00]+$")]
Variant = Annotated[str, Meta(pattern=r"^[^/]*/[^/]*/[^/]*$")]
Top = list[tuple[str, float]]


class Line(msgspec.Struct, kw_only=True):
    """What every line has. A measure of one's own writes a subclass of it.

    Attributes:
        file: stem of the prediction file.
        optional: fields that are not written where they are empty.
        shown: whether a report shows the sample, with its pictures.
    """

    file: ClassVar[str]
    optional: ClassVar[tuple[str, ...]] = ()
    dataset: str = ""
    schema: int = SCHEMA

    def written(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in found.items() if value or name not in self.optional}

    def _need(self, *names: str) -> None:
        """Refuse a line that lacks what only some lines of its kind have to have."""
        for name in names:
            if not getattr(self, name):
                raise ValueError(f"Object missing required field `{name}`")


class RankedLine(Line, kw_only=True):
    """Where the best right candidate stands; see :func:`place`."""

    rank: Rank
    ties: Count = 0


class RetrievalLine(RankedLine, kw_only=True):
    """One query of a text <-> image protocol; ``draw`` numbers the drawings of its candidates."""

    file = "retrieval"
    protocol: str
    direction: Literal["t2i", "i2t"]
    draw: int
    query: str | int
    product: str
    ties: Count
    candidates: Count
    undecidable: bool = False
    shown: bool = False


class ResultList(RankedLine, kw_only=True):
    """The best answers to a query among everything there is.

    Attributes:
        key: product of a text, or id of an image.
        targets: right answers: ids of a text's images, or the product of an image.
        target_shown: the best right one, if it is among the best.
        top: (image id or product, score), best first.
    """

    file = "retrieval"
    dataset: str
    key: str
    targets: list[str]
    target_shown: str | None = None
    candidates: Count = 0
    top: Top
    shown: bool = True


class TextToImage(ResultList, kw_only=True):
    """Images that a text found."""

    direction: Literal["t2i"] = "t2i"
    text: str


class ImageToText(ResultList, kw_only=True):
    """Texts that an image found, by product."""

    direction: Literal["i2t"] = "i2t"
    texts: dict[str, str]


class ComposedLine(RankedLine, kw_only=True):
    """One composed query; rank, ties and list are those of the image score in the original gallery, reference kept.

    Attributes:
        overlap: its target stands in a train split of another category.
        ranks: ``gallery/reference/score`` -> rank and ties.
        halves: half of the query -> rank and ties of what it finds alone.
    """

    file = "composed"
    key: str
    category: str
    reference: str
    target: str
    text: str
    overlap: bool = False
    candidates: Count = 0
    shown: bool = False
    target_shown: str | None = None
    ranks: dict[Variant, RankAndTies] = {}
    halves: dict[str, RankAndTies] = {}
    top: Top = []
    optional = ("candidates",)

    def __post_init__(self) -> None:
        if self.shown:
            self._need("dataset", "top")

    @property
    def targets(self) -> list[str]:
        """The one right answer."""
        return [self.target]


class CaptionLine(Line, kw_only=True):
    """One caption.

    Attributes:
        scores: metric -> value, None where it could not be computed.
        words: check -> first word of its list in ``hypothesis`` and in ``reference``.
        styles: other style -> what the model says in it.
    """

    file = "captions"
    id: str
    style: str | None = None
    hypothesis: str
    reference: str
    shown: bool = False
    scores: dict[str, float | None] | None = None
    words: dict[str, tuple[str | None, str | None]] = {}
    styles: dict[str, str] = {}
    optional = ("styles",)

    def __post_init__(self) -> None:
        if self.shown:
            self._need("dataset")


class PictureLine(Line, kw_only=True):
    """Pictures made from one sample; ``kind`` is ``reconstruction`` or ``composed``. Names are files beside each other."""

    file = "images"
    id: str = ""
    kind: str
    prompt: str
    seeds: list[int]
    files: list[FileName]
    truth: FileName | None = None
    reference: FileName | None = None
    sampler: str = ""
    steps: int | None = None
    guidance: float | None = None
    shown: bool = False
    optional = ("truth", "reference")


class Repainted(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One picture of a person; ``scores`` against the truth, where there is one."""

    file: FileName
    guidance: float
    scores: dict[str, float] = {}


class PersonLine(Line, kw_only=True):
    """One repainted person: ``given`` name -> picture that the model saw, ``made`` variant -> what it painted."""

    file = "edits"
    id: str
    paired: bool
    prompt: str
    given: dict[str, FileName]
    made: dict[str, Repainted]
    sampler: str
    steps: int | None = None
    garment_guidance: float = 1.0
    seed: int
    shown: bool = False


class RewrittenLine(RankedLine, kw_only=True):
    """A composed query in its own and in other words; ``overlap``: share of both lists of the best."""

    file = "robustness"
    rule: str
    key: str
    text: str
    rewritten: str
    category: str
    reference: str
    target: str
    score: float
    rewritten_rank: Rank
    rewritten_ties: Count
    rewritten_score: float
    overlap: float

    @property
    def rewritten_place(self) -> int:
        """:func:`place` in other words."""
        return self.rewritten_rank + self.rewritten_ties


class ProductLine(RankedLine, kw_only=True):
    """Where a query's product stands among products."""

    file = "robustness"
    rule: str = "product-level"
    direction: str = ""
    key: str
    product: str
    optional = ("direction",)


#: Prediction file of a report -> kinds of its lines.
KINDS: dict[str, tuple[type[Line], ...]] = {
    "retrieval": (RetrievalLine, TextToImage, ImageToText),
    "composed": (ComposedLine,),
    "captions": (CaptionLine,),
    "images": (PictureLine,),
    "edits": (PersonLine,),
}


def place(line: RankedLine) -> int:
    """Where the best right candidate of a line stands, from 1, behind all that score as it does."""
    return line.rank + line.ties


def image_name(dataset: str, key: str) -> str:
    """File name of a thumbnail.

    >>> image_name("fashioniq/val", "B008BHCT58")
    'fashioniq-val--B008BHCT58.jpg'
    """
    return file_name(dataset, key, ".jpg")


def file_name(dataset: str, key: str, ending: str) -> str:
    """Name of a file about something of a dataset; safe for every key, and unique: what was replaced is told apart by a hash."""
    name = f"{dataset.replace('/', '-')}--{key}"
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:120]
    if safe != name:
        safe += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return safe + ending


def write_lines(path: str | Path, lines: Iterable[Line | Mapping[str, Any]]) -> Path:
    """One JSON object per line, keys sorted, UTF-8; returns the path."""
    plain = (line.written() if isinstance(line, Line) else line for line in lines)
    text = "".join(json.dumps(line, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n" for line in plain)
    return write_text(path, text)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of any such file as plain values; a missing file is an empty list.

    Raises:
        FormatError: a line that is no JSON object, by file and number.
    """
    if not path.is_file():
        return []
    return [line for _, line in read_json_lines(path, dict[str, Any], "a JSON object")]


def read_predictions(path: Path, name: str) -> list[Line]:
    """Lines of a prediction file of that name, of this or an earlier version; a missing file is an empty list.

    Raises:
        FormatError: no JSON, or a field is absent or of another type, by file, line and field.
        ValueError: a schema of a later version.
    """
    if not path.is_file():
        return []
    lines = read_json_lines(path, dict[str, Any], "an object")
    return [converted(current(line), _kind(name, line), f"{path}:{number}", f"a line of {name}") for number, line in lines]


def _kind(name: str, line: Mapping[str, Any]) -> type[Line]:
    if name != "retrieval":
        return KINDS[name][0]
    if line.get("protocol"):
        return RetrievalLine
    return TextToImage if line.get("direction") == "t2i" else ImageToText


def current(line: dict[str, Any]) -> dict[str, Any]:
    """A line in today's schema, whichever it was written in. Older ones count from 0, some with and some without their ties.

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
    out: dict[str, Any] = {**line, "schema": SCHEMA}
    for prefix in ("", "rewritten_"):
        rank, ties = line.get(f"{prefix}rank"), line.get(f"{prefix}ties") or 0
        if type(rank) is int and type(ties) is int:  # others, True among them, are refused by the field's type
            # per query of a retrieval protocol, ``rank`` was the better ones alone; everywhere else ties were in it
            out[f"{prefix}rank"] = rank + 1 - (0 if "protocol" in line else ties)
    for name in ("ranks", "halves"):
        if isinstance(pairs := line.get(name), dict):
            out[name] = {key: _from_1(pair) for key, pair in pairs.items()}
    if isinstance(rounds := line.get("rounds"), list):
        out["rounds"] = [current({k: v for k, v in one.items() if k != "schema"}) for one in rounds]
    return out


def _from_1(pair: Any) -> Any:
    """An older (better ones, ties) as (rank, ties); what is none stays, and is refused by its type."""
    good = isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int
    return [pair[0] + 1, pair[1]] if good else pair
