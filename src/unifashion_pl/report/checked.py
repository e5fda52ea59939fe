"""What the report reads of prediction files, as types: lines of another form are refused by file, line and field.

Fields that the report does not read may be anything. Files are named without a folder, so that none outside of a run is ever shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from unifashion_pl.reading import converted, read_json_lines

Line = dict[str, Any]
#: Galleries are far smaller; what follows from a rank is computed in as many steps.
MOST = 10_000_000
Count = Annotated[int, Meta(ge=0, le=MOST)]
FileName = Annotated[str, Meta(pattern=r"^[^/\\\x00]+$")]
Variant = Annotated[str, Meta(pattern=r"^[^/]*/[^/]*/[^/]*$")]
Top = list[tuple[str, float]]


class _Retrieval(TypedDict):
    direction: Literal["t2i", "i2t"]
    rank: Count
    ties: NotRequired[Count]
    candidates: NotRequired[Count]
    dataset: NotRequired[str]
    shown: NotRequired[bool]
    protocol: NotRequired[str | None]


class _Query(TypedDict):
    product: str
    query: str | int
    draw: int
    ties: Count
    candidates: Count


class _Answers(TypedDict):
    dataset: str
    key: str
    targets: list[str]
    top: Top
    target_shown: NotRequired[str | None]


class _TextToImage(_Answers):
    text: str


class _ImageToText(_Answers):
    texts: dict[str, str]


class _Composed(TypedDict):
    key: str
    category: str
    reference: str
    target: str
    text: str
    rank: Count
    ties: NotRequired[Count]
    candidates: NotRequired[Count]
    dataset: NotRequired[str]
    shown: NotRequired[bool]
    ranks: NotRequired[dict[Variant, tuple[Count, Count]]]
    halves: NotRequired[dict[str, tuple[Count, Count]]]


class _ShownComposed(TypedDict):
    dataset: str
    top: Top
    target_shown: NotRequired[str | None]


class _Caption(TypedDict):
    id: str
    reference: str
    hypothesis: str
    dataset: NotRequired[str]
    shown: NotRequired[bool]
    style: NotRequired[str | None]
    scores: NotRequired[dict[str, float | None] | None]
    words: NotRequired[dict[str, tuple[str | None, str | None]]]
    styles: NotRequired[dict[str, str]]


class _ShownCaption(TypedDict):
    dataset: str


class _Image(TypedDict):
    kind: str
    prompt: str
    files: list[FileName]
    seeds: list[int]
    shown: NotRequired[bool]
    truth: NotRequired[FileName | None]
    reference: NotRequired[FileName | None]


class _Made(TypedDict):
    file: FileName
    guidance: float


class _Edit(TypedDict):
    id: str
    paired: bool
    prompt: str
    given: dict[str, FileName]
    made: dict[str, _Made]
    sampler: str
    seed: int
    shown: NotRequired[bool]
    garment_guidance: NotRequired[float]


#: Prediction file -> what every line of it has.
KINDS: dict[str, Any] = {
    "retrieval": _Retrieval,
    "composed": _Composed,
    "captions": _Caption,
    "images": _Image,
    "edits": _Edit,
}


def read_predictions(path: Path, name: str) -> list[Line]:
    """Lines of a prediction file of that name; a missing file is an empty list.

    Raises:
        FormatError: no JSON, or a field that the report reads is absent or of another type, by file, line and field.
    """
    if not path.is_file():
        return []
    lines: list[Line] = []
    for number, line in read_json_lines(path, Line, "an object"):
        for kind in (KINDS[name], *_further(name, line)):
            converted(line, kind, f"{path}:{number}", f"a line of {name}")
        lines.append(line)
    return lines


def _further(name: str, line: Line) -> list[Any]:
    """What some lines have beyond that."""
    kinds: list[Any] = []
    if name == "retrieval" and line.get("protocol"):
        kinds.append(_Query)
    if line.get("shown"):
        shown = {"composed": _ShownComposed, "captions": _ShownCaption}
        if name == "retrieval":
            kinds.append(_TextToImage if line.get("direction") == "t2i" else _ImageToText)
        elif name in shown:
            kinds.append(shown[name])
    return kinds
