"""Bytes of samples -> typed batches. One assembler per kind of shard; all are picklable and know no dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, Protocol, TypedDict, TypeVar

import torch
from PIL import Image
from torch import Tensor

from unifashion_pl.data.decode import BadInput, open_image
from unifashion_pl.data.reader import DamagedSample, RawSample
from unifashion_pl.data.samples import Batch, GalleryBatch, PairBatch, QueryBatch, TripletBatch, TryOnBatch
from unifashion_pl.data.texts import Draw, Joiner, PairText, modifying_text, number_of, phrases_text, product_text
from unifashion_pl.data.transforms import BLACK, EncoderTransform, MaskTransform, PixelTransform, to_tensor
from unifashion_pl.reading import FormatError, from_json

B_co = TypeVar("B_co", bound=Batch, covariant=True)
Row = dict[str, Any]
GREY = 128


class Assembler(Protocol[B_co]):
    """Makes batches of one type.

    Attributes:
        needs: fields without which it cannot work.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    def sample(self, raw: RawSample, draw: Draw) -> Row:
        """Decode one sample into a row of its batch.

        Raises:
            DamagedSample: a field is absent or broken.
        """
        ...

    def batch(self, rows: Sequence[Row], dataset: str) -> B_co:
        """Rows (at least one) -> batch."""
        ...


def image_of(raw: RawSample, name: str) -> Image.Image:
    """The decoded image field ``name.jpg`` or ``name.png``.

    Raises:
        DamagedSample: absent or broken.
    """
    data = raw.fields.get(f"{name}.jpg") or raw.fields.get(f"{name}.png")
    if data is None:
        raise DamagedSample(raw.key, f"has no {name}.jpg or {name}.png, only {', '.join(sorted(raw.fields))}")
    try:
        return open_image(data)
    except BadInput as error:
        raise DamagedSample(raw.key, f"{name}: {error.reason}") from error


def seen(raw: RawSample, name: str, encoder: EncoderTransform, image: Tensor | None = None) -> Tensor:
    """What the model gets of an image field for its vision tower: pixels (3, S, S) uint8, or the tower's cached output (P, W).

    Args:
        image: the decoded field, if it is at hand.

    Raises:
        DamagedSample: absent or broken.
    """
    if name in raw.features:
        return raw.features[name]
    return encoder(to_tensor(image_of(raw, name)) if image is None else image)


def painted(raw: RawSample, name: str, pixels: PixelTransform | None) -> Tensor | None:
    """The decoded image field (3, h, w), None where nobody looks at its pixels, because its features are cached.

    Raises:
        DamagedSample: absent or broken.
    """
    return None if name in raw.features and pixels is None else to_tensor(image_of(raw, name))


def has_image(raw: RawSample, name: str) -> bool:
    return f"{name}.jpg" in raw.fields or f"{name}.png" in raw.fields


class PairMeta(TypedDict, total=False):
    """``meta.json`` of a pair."""

    id: str
    product: str | int
    name: str
    description: str
    category: str
    subcategory: str


class TripletMeta(TypedDict):
    """``meta.json`` of a triplet or query; a query of a test split has no target."""

    reference: NotRequired[str]
    target: NotRequired[str]
    captions: list[str]
    category: str


class GalleryMeta(TypedDict):
    """``meta.json`` of a gallery image."""

    id: str
    category: str
    in_union: bool


class TryOnMeta(TypedDict, total=False):
    """``meta.json`` of a try-on sample."""

    phrases: list[str]


M = TypeVar("M")


def meta_of(raw: RawSample, kind: type[M]) -> M:
    """The decoded ``meta.json``, as far as ``kind`` declares it.

    Raises:
        DamagedSample: absent, or a field lacks or is of another type.
    """
    if "meta.json" not in raw.fields:
        raise DamagedSample(raw.key, "has no meta.json")
    try:
        meta: M = from_json(raw.fields["meta.json"], kind, "meta.json")
    except FormatError as error:
        raise DamagedSample(raw.key, str(error)) from error
    return meta


def _needed(raw: RawSample, meta: TripletMeta, name: Literal["reference", "target"]) -> str:
    if name not in meta:
        raise DamagedSample(raw.key, f"meta.json has no {name}")
    return meta[name]


def _column(rows: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in rows]


def _stack(rows: Sequence[Row], name: str) -> Tensor:
    return torch.stack(_column(rows, name))


def _stack_optional(rows: Sequence[Row], name: str) -> Tensor | None:
    return None if any(row[name] is None for row in rows) else _stack(rows, name)


@dataclass
class PairAssembler:
    """Pairs -> :class:`PairBatch`.

    Args:
        encoder: what the vision tower sees.
        pixels: target of the diffusion head, or None.
        text, caption: rules of the retrieval text and of the captioning target.
        style: instruction style of the captions.
        captions: descriptions by image id, instead of the shards' own.
        same: what makes two samples of a batch each other's positives: the same ``product`` or the same retrieval ``text``.
        flip: chance that a training image is mirrored.
    """

    encoder: EncoderTransform
    pixels: PixelTransform | None = None
    text: PairText = "name_description"
    caption: PairText = "description"
    style: str = "fashiongen"
    captions: Mapping[str, str] | None = None
    same: Literal["product", "text"] = "product"
    flip: float = 0.0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"image", "meta"})

    def sample(self, raw: RawSample, draw: Draw) -> Row:
        """See :class:`Assembler`."""
        meta, image = meta_of(raw, PairMeta), painted(raw, "image", self.pixels)
        key = meta.get("id", raw.key)
        if image is not None and self.flip and draw.epoch is not None and draw.rng(f"flip/{key}").random() < self.flip:
            image = image.flip(-1)
        name = meta.get("name", "")
        description = meta.get("description", "") if self.captions is None else self.captions.get(key, "")
        text = product_text(name, description, self.text, draw)
        return {
            "key": key,
            "image": seen(raw, "image", self.encoder, image),
            "pixels": self.pixels(image) if self.pixels and image is not None else None,
            "text": text,
            "caption": product_text(name, description, self.caption, draw),
            "product": number_of(text if self.same == "text" else str(meta.get("product", raw.key))),
            "name": name,
            "category": meta.get("category", ""),
            "subcategory": meta.get("subcategory", ""),
        }

    def batch(self, rows: Sequence[Row], dataset: str) -> PairBatch:
        """See :class:`Assembler`."""
        return PairBatch(
            keys=_column(rows, "key"),
            images=_stack(rows, "image"),
            texts=_column(rows, "text"),
            captions=_column(rows, "caption"),
            styles=[self.style] * len(rows),
            products=torch.tensor(_column(rows, "product"), dtype=torch.int64),
            pixels=_stack_optional(rows, "pixels"),
            product_names=_column(rows, "name"),
            categories=_column(rows, "category"),
            subcategories=_column(rows, "subcategory"),
            dataset=dataset,
        )


@dataclass
class TripletAssembler:
    """Triplets -> :class:`TripletBatch`.

    Args:
        captions: caption of a target by image id; ids without one get "".
        joiner: how the two modifying texts are joined.
        style: instruction style of the captions.
    """

    encoder: EncoderTransform
    pixels: PixelTransform | None = None
    captions: Mapping[str, str] = field(default_factory=dict)
    joiner: Joiner = "and"
    style: str = "fashioniq"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference", "target", "meta"})

    def sample(self, raw: RawSample, draw: Draw) -> Row:
        """See :class:`Assembler`."""
        meta, target = meta_of(raw, TripletMeta), painted(raw, "target", self.pixels)
        target_id = _needed(raw, meta, "target")
        return {
            "key": raw.key,
            "reference": seen(raw, "reference", self.encoder),
            "target": seen(raw, "target", self.encoder, target),
            "pixels": self.pixels(target) if self.pixels and target is not None else None,
            "text": modifying_text(meta["captions"], draw, raw.key, self.joiner),
            "caption": self.captions.get(target_id, ""),
            "target_id": number_of(target_id),
            "category": meta["category"],
        }

    def batch(self, rows: Sequence[Row], dataset: str) -> TripletBatch:
        """See :class:`Assembler`."""
        return TripletBatch(
            keys=_column(rows, "key"),
            references=_stack(rows, "reference"),
            targets=_stack(rows, "target"),
            texts=_column(rows, "text"),
            captions=_column(rows, "caption"),
            styles=[self.style] * len(rows),
            target_ids=torch.tensor(_column(rows, "target_id"), dtype=torch.int64),
            pixels=_stack_optional(rows, "pixels"),
            categories=_column(rows, "category"),
            dataset=dataset,
        )


@dataclass
class GalleryAssembler:
    """Gallery images -> :class:`GalleryBatch`.

    Args:
        library: lines of a query-blind caption library by image id, see :func:`~unifashion_pl.data.captions.read_library`.
        allow_unsafe_captions: handed on to the evaluation, which else refuses captions without provenance.
    """

    encoder: EncoderTransform
    library: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    allow_unsafe_captions: bool = False
    planned: Mapping[str, int] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"image", "meta"})

    def sample(self, raw: RawSample, draw: Draw) -> Row:
        """See :class:`Assembler`."""
        meta = meta_of(raw, GalleryMeta)
        line = dict(self.library.get(meta["id"], {}))
        return {
            "key": meta["id"],
            "image": self.encoder(image_of(raw, "image")),
            "category": meta["category"],
            "caption": line.pop("caption", ""),
            "provenance": line,
            "in_union": meta["in_union"],
        }

    def batch(self, rows: Sequence[Row], dataset: str) -> GalleryBatch:
        """See :class:`Assembler`."""
        return GalleryBatch(
            keys=_column(rows, "key"),
            images=_stack(rows, "image"),
            categories=_column(rows, "category"),
            captions=_column(rows, "caption"),
            in_union=_column(rows, "in_union"),
            dataset=dataset,
            provenance=_column(rows, "provenance"),
            allow_unsafe_captions=self.allow_unsafe_captions,
            planned=dict(self.planned),
        )


@dataclass
class QueryAssembler:
    """Queries of an evaluation split -> :class:`QueryBatch`; ``pixels`` shows the target, if the split has one."""

    encoder: EncoderTransform
    pixels: PixelTransform | None = None
    joiner: Joiner = "and"
    planned: Mapping[str, int] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference", "meta"})

    def sample(self, raw: RawSample, draw: Draw) -> Row:
        """See :class:`Assembler`."""
        meta = meta_of(raw, TripletMeta)
        return {
            "key": raw.key,
            "reference": self.encoder(image_of(raw, "reference")),
            "reference_id": _needed(raw, meta, "reference"),
            "target_id": meta.get("target", ""),
            "text": modifying_text(meta["captions"], draw, raw.key, self.joiner),
            "category": meta["category"],
            "pixels": self.pixels(image_of(raw, "target")) if self.pixels and has_image(raw, "target") else None,
        }

    def batch(self, rows: Sequence[Row], dataset: str) -> QueryBatch:
        """See :class:`Assembler`."""
        return QueryBatch(
            keys=_column(rows, "key"),
            references=_stack(rows, "reference"),
            reference_ids=_column(rows, "reference_id"),
            target_ids=_column(rows, "target_id"),
            texts=_column(rows, "text"),
            categories=_column(rows, "category"),
            pixels=_stack_optional(rows, "pixels"),
            dataset=dataset,
            planned=dict(self.planned),
            joiner=self.joiner,
        )


class TryOnAssembler:
    """Try-on samples -> :class:`TryOnBatch`.

    Args:
        encoder: of the garment photo for the vision tower.
        size: (H, W) of all other pictures.
        paired: whether the split pairs every person with its own garment.
    """

    def __init__(self, encoder: EncoderTransform, size: tuple[int, int], paired: bool) -> None:
        self.encoder = encoder
        self.picture = PixelTransform(size)
        self.dark = PixelTransform(size, fill=BLACK)
        self.mask = MaskTransform(size)
        self.paired = paired

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"person", "garment", "mask", "meta"})

    def sample(self, raw: RawSample, draw: Draw) -> Row:
        """See :class:`Assembler`."""
        meta, garment = meta_of(raw, TryOnMeta), to_tensor(image_of(raw, "garment"))
        person, mask = self.picture(image_of(raw, "person")), self.mask(image_of(raw, "mask"))
        agnostic = self.picture(image_of(raw, "agnostic")) if has_image(raw, "agnostic") else person.masked_fill(mask, GREY)
        return {
            "key": raw.key,
            "garment": seen(raw, "garment", self.encoder, garment),
            "garment_pixels": self.picture(garment),
            "pixels": person,
            "agnostic": agnostic,
            "mask": mask,
            "pose": self.dark(image_of(raw, "densepose")) if has_image(raw, "densepose") else None,
            "sketch": self.dark(image_of(raw, "sketch")) if has_image(raw, "sketch") else None,
            "shape": self.mask(image_of(raw, "garment_mask"))
            if has_image(raw, "warped_mask") and has_image(raw, "garment_mask")
            else None,
            "worn": self.mask(image_of(raw, "warped_mask")) if has_image(raw, "warped_mask") else None,
            "text": phrases_text(meta.get("phrases", []), draw, raw.key),
        }

    def batch(self, rows: Sequence[Row], dataset: str) -> TryOnBatch:
        """See :class:`Assembler`."""
        return TryOnBatch(
            keys=_column(rows, "key"),
            garments=_stack(rows, "garment"),
            pixels=_stack(rows, "pixels"),
            agnostic=_stack(rows, "agnostic"),
            masks=_stack(rows, "mask"),
            pose=_stack_optional(rows, "pose"),
            garment_pixels=_stack(rows, "garment_pixels"),
            sketches=_stack_optional(rows, "sketch"),
            texts=_column(rows, "text"),
            paired=self.paired,
            dataset=dataset,
            worn=_stack_optional(rows, "worn"),
            shapes=_stack_optional(rows, "shape"),
        )
