"""``meta.json`` of a sample, checked field by field: what each kind of sample has to say beside its pictures."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from typing_extensions import NotRequired, TypedDict

from unifashion_pl.data.reader import DamagedSample, RawSample
from unifashion_pl.reading import FormatError, from_json


class PairMeta(TypedDict, total=False):
    """Of a picture with texts; ``product`` names the pictures that belong together, ``labels`` are a dataset's own, ``captions`` are
    captioning targets by style, in the place of ``description``."""

    id: str
    product: int | str
    name: str
    description: str
    captions: dict[str, str]
    category: str
    subcategory: str
    labels: dict[str, Any]


class TripletMeta(TypedDict):
    """Of a reference, a target (an image id) and the texts between them; ``caption`` describes the target."""

    target: str
    captions: list[str]
    category: str
    caption: NotRequired[str]


class GalleryMeta(TypedDict):
    """Of an image that queries are searched in; ``in_union``: whether Fashion-IQ's union protocol counts it."""

    id: str
    category: str
    in_union: bool


class QueryMeta(TypedDict):
    """Of a query; the target is unknown in test splits without answers, and ``right`` are all answers where there are others beside it."""

    reference: str
    captions: list[str]
    category: str
    target: NotRequired[str]
    right: NotRequired[list[str]]


class TryOnMeta(TypedDict, total=False):
    """Of a person and a garment; ``phrases`` describe the garment."""

    phrases: list[str]


M = TypeVar("M", PairMeta, TripletMeta, GalleryMeta, QueryMeta, TryOnMeta)


#: Made once: of every sample they read a line.
DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (PairMeta, TripletMeta, GalleryMeta, QueryMeta, TryOnMeta)
}


def meta_of(raw: RawSample, kind: type[M]) -> M:
    """The decoded ``meta.json``; entries that the kind does not know are left out.

    Raises:
        DamagedSample: absent, no JSON object, or an entry is absent or of another type.
    """
    data = raw.fields.get("meta.json")
    if data is None:
        raise DamagedSample(raw.key, f"has no meta.json, only {', '.join(sorted(raw.fields))}")
    try:
        return DECODERS[kind].decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        return from_json(data, kind, "meta.json")  # which says what is wrong
    except FormatError as error:
        raise DamagedSample(raw.key, str(error)) from error
