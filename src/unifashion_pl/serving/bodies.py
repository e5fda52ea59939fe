"""What may be asked, field by field: JSON with pictures in base64, or a multipart form with pictures as files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from unifashion_pl.gallery.asking import SearchOptions
from unifashion_pl.names import quoted, unknown
from unifashion_pl.reading import FormatError, converted, from_json
from unifashion_pl.serving.errors import Refusal

B = TypeVar("B", bound=msgspec.Struct)
#: Of a text in characters; hits; examples of either kind; ids that are left out; pictures that the matching head looks at; columns that are counted.
LONGEST, MOST_HITS, EXAMPLES, EXCLUDED, RERANKED, COUNTED = 2_000, 1_000, 8, 1_000, 200, 20
Text = Annotated[str, Meta(min_length=1, max_length=LONGEST)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Picture = Annotated[bytes, Meta(description="base64 in JSON, a file in a form", min_length=1)]
Ids = Annotated[list[str], Meta(max_length=EXCLUDED)]
Columns = Annotated[list[Name], Meta(max_length=COUNTED)]
Pictures = Annotated[list[Picture], Meta(max_length=EXAMPLES)]


class SearchBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A search by text, by image, by both (what is to be changed in the image), or by examples."""

    text: Annotated[Text | None, Meta(description="what is looked for; with image: what is to be changed")] = None
    image: Annotated[Picture | None, Meta(description="an example; base64 in JSON, a file in a form")] = None
    like: Annotated[Pictures | None, Meta(description="further examples")] = None
    unlike: Annotated[Pictures | None, Meta(description="examples that are not wanted")] = None
    unlike_weight: Annotated[float, Meta(description="the share of their score that is taken off")] = 0.5
    k: Annotated[int, Meta(ge=1, le=MOST_HITS, description="how many hits")] = 10
    where: Annotated[str | None, Meta(description="a filter, e.g. price < 50 and category == 'dress'")] = None
    exclude: Annotated[Ids | None, Meta(description="ids that are left out")] = None
    group: Annotated[Name | None, Meta(description="a column, e.g. product: one hit a value, the best")] = None
    words: Annotated[float, Meta(description="weight of a search for the words themselves")] = 0.0
    caption_weight: Annotated[float, Meta(description="weight of the texts that an index was given beside its images")] = 1.0
    appearance: Annotated[
        float | None, Meta(description="weight of looking the very same; null: as was chosen for the model, 0 beside text")
    ] = None
    rerank: Annotated[int, Meta(ge=0, le=RERANKED, description="so many of the best are ranked by the matching head")] = 0
    facets: Annotated[Columns | None, Meta(description="columns whose values are counted under where")] = None

    def options(self) -> SearchOptions:
        """How the search is made; examples are added when they are decoded.

        Raises:
            ValueError: a number that is none.
        """
        names = ("unlike_weight", "k", "where", "group", "words", "caption_weight", "appearance", "rerank")
        return SearchOptions(**{name: getattr(self, name) for name in names}, exclude=self.exclude or ())


class EmbedBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The vector of a text or of both together, or the vectors of an image."""

    text: Annotated[Text | None, Meta(description="a text; with image: what is to be changed in it")] = None
    image: Annotated[Picture | None, Meta(description="base64 in JSON, a file in a form")] = None


class CaptionBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A sentence about an image."""

    image: Picture
    style: Annotated[Name, Meta(description="one of those that /ready lists")] = "fashiongen"


class HitFound(msgspec.Struct, kw_only=True):
    """A hit; what its score is made of stands in ``parts``."""

    id: str
    score: float
    product: str
    caption: str | None
    columns: dict[str, int | float | str]
    parts: dict[str, float]


class FacetCount(msgspec.Struct):
    """How many images have a value."""

    value: int | float | str | None
    count: int


class SearchAnswer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Hits, best first; ``match`` is what a calibrated index says of a search by text: whether anything here matches at all."""

    hits: list[HitFound]
    facets: dict[str, list[FacetCount]] | None = None
    match: dict[str, Any] | None = None
    notes: list[str] = []


class EmbedAnswer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Unit vectors, one (1, E) or of an image alone (Q, E), the set of queries in whose space they lie, and the model's fingerprint."""

    vectors: list[list[float]]
    query_set: str
    model: str
    notes: list[str] = []


class CaptionAnswer(msgspec.Struct, kw_only=True):
    """A caption."""

    caption: str
    style: str


def from_body(data: bytes, kind: type[B]) -> B:
    """A JSON body.

    Raises:
        Refusal: no JSON, or with the field what is wrong with it.
    """
    try:
        found: B = from_json(data, kind, "the body")
    except FormatError as error:
        fault = error.__cause__
        if isinstance(fault, msgspec.ValidationError):
            raise _refused(str(error), kind) from error
        raise Refusal("invalid_body", f"{error}; expected a JSON object in UTF-8") from error
    return found


def from_form(fields: Sequence[tuple[str, str | bytes]], kind: type[B]) -> B:
    """A form's fields, of which files are bytes; a list's field is repeated.

    Raises:
        Refusal: as :func:`from_body`.
    """
    types = {field.name: field.type for field in msgspec.inspect.type_info(kind).fields}  # type: ignore[attr-defined]
    given: dict[str, Any] = {}
    for name, value in fields:
        if name in types and _is(types[name], msgspec.inspect.ListType):
            given.setdefault(name, []).append(value)
        elif name in given:
            raise Refusal("invalid_request", f"the field {quoted(name)} is there twice, expected once")
        else:
            given[name] = _number(value) if name in types and _is_number(types[name]) else value
    try:
        found: B = converted(given, kind, "the form")
    except FormatError as error:
        raise _refused(str(error), kind) from error
    return found


def _refused(message: str, kind: type[msgspec.Struct]) -> Refusal:
    """A validator's sentence; a field that nobody knows is named beside those that there are."""
    if found := re.search(r"unknown field `(.*)`", message, re.DOTALL):
        message = unknown("field", found[1], kind.__struct_fields__)
    return Refusal("invalid_request", message)


def _is(declared: Any, kind: type) -> bool:
    """Whether a type, or one of a union, is of a kind."""
    if isinstance(declared, msgspec.inspect.Metadata):
        return _is(declared.type, kind)
    return (
        any(_is(one, kind) for one in declared.types)
        if isinstance(declared, msgspec.inspect.UnionType)
        else isinstance(declared, kind)
    )


def _is_number(declared: Any) -> bool:
    return _is(declared, msgspec.inspect.IntType) or _is(declared, msgspec.inspect.FloatType)


def _number(value: str | bytes) -> Any:
    """A number that a form wrote as text; what is none stays, and is refused by its type."""
    try:
        return msgspec.json.decode(value.strip(), type=int | float)
    except (msgspec.DecodeError, UnicodeError):
        return value


def pictures_of(body: msgspec.Struct) -> Mapping[str, bytes]:
    """The pictures of a body by the names of their fields."""
    found: dict[str, bytes] = {}
    for name in ("image", "like", "unlike"):
        given = getattr(body, name, None)
        if isinstance(given, bytes):
            found[name] = given
        for number, one in enumerate(given if isinstance(given, list) else ()):
            found[f"{name}[{number}]"] = one
    return found
