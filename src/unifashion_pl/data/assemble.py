"""Bytes of samples -> typed batches. One assembler per kind of shard; all are picklable and know no dataset."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor

from unifashion_pl.data.decode import BadInput, Decoded, open_picture
from unifashion_pl.data.meta import GalleryMeta, PairMeta, QueryMeta, TripletMeta, TryOnMeta, meta_of
from unifashion_pl.data.reader import DamagedSample, RawSample, mirrored
from unifashion_pl.data.samples import Batch, GalleryBatch, PairBatch, QueryBatch, TripletBatch, TryOnBatch
from unifashion_pl.data.texts import Draw, Joiner, PairText, modifying_text, number_of, phrases_text, product_text, styled
from unifashion_pl.data.transforms import BLACK, GREYED, EncoderTransform, MaskTransform, PixelTransform, single, to_tensor

B_co = TypeVar("B_co", bound=Batch, covariant=True)


class Assembler(Protocol[B_co]):
    """Makes batches of one type.

    Attributes:
        needs: fields without which it cannot work.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    def sample(self, raw: RawSample, draw: Draw, dataset: str) -> B_co:
        """Decode one sample into a batch of one.

        Raises:
            DamagedSample: a field is absent or broken.
        """
        ...


def image_bytes(raw: RawSample, name: str) -> bytes:
    """The image field ``name.jpg`` or ``name.png`` as it is stored.

    Raises:
        DamagedSample: absent.
    """
    data = raw.fields.get(f"{name}.jpg") or raw.fields.get(f"{name}.png")
    if data is None:
        raise DamagedSample(raw.key, f"has no {name}.jpg or {name}.png, only {', '.join(sorted(raw.fields))}")
    return data


def picture_of(raw: RawSample, name: str) -> Decoded:
    """The decoded image field ``name.jpg`` or ``name.png``.

    Raises:
        DamagedSample: absent or broken.
    """
    try:
        return open_picture(image_bytes(raw, name), f"{raw.key}: {name}")
    except BadInput as error:
        raise DamagedSample(raw.key, f"{name}: {error.reason}") from error


def image_of(raw: RawSample, name: str) -> Image.Image:
    """:func:`picture_of` as an image, in its own mode, or its error."""
    return picture_of(raw, name).image


def colours_of(raw: RawSample, name: str) -> Tensor:
    """:func:`picture_of` as uint8 RGB (3, h, w), or its error."""
    return to_tensor(picture_of(raw, name).rgb())


def tower_input(raw: RawSample, name: str, encoder: EncoderTransform, image: Tensor | None = None) -> Tensor:
    """What the model gets of an image field for its vision tower: pixels (1, 3, S, S) uint8, or the tower's cached output (1, P, W).

    Args:
        image: the decoded field, if it is at hand.

    Raises:
        DamagedSample: absent or broken.
    """
    if name in raw.features:
        return raw.features[name][None]
    return single(encoder(colours_of(raw, name) if image is None else image))


def kept_name(name: str) -> str:
    """Under which a sample carries the posterior of an image field."""
    return f"latents/{name}"


def cells(kept: Tensor, pixels: PixelTransform) -> Tensor:
    """A kept posterior (C, h·w) -> (1, C, h, w), for the pictures of a transform."""
    height, width = pixels.size
    factor = isqrt(height * width // kept.shape[-1])
    return kept.view(1, kept.shape[0], height // factor, width // factor)


def pixels_of(raw: RawSample, name: str, pixels: PixelTransform | None) -> Tensor | None:
    """The decoded image field (3, h, w), None where nobody looks at its pixels, because all that is made of them is cached.

    Raises:
        DamagedSample: absent or broken.
    """
    cached = name in raw.features and (pixels is None or kept_name(name) in raw.features)
    return None if cached else colours_of(raw, name)


def painted(raw: RawSample, name: str, pixels: PixelTransform | None, image: Tensor | None) -> Tensor | None:
    """What the diffusion head is given of an image field: pixels (1, 3, H, W), or the autoencoder's cached posterior (1, C, h, w).

    Args:
        image: the decoded field.
    """
    if pixels is not None and kept_name(name) in raw.features:
        return cells(raw.features[kept_name(name)], pixels)
    return None if pixels is None or image is None else single(pixels(image))


def shown_beside(raw: RawSample, name: str, encoder: EncoderTransform) -> Tensor | None:
    """An image field (1, 3, S, S) for people to look at, where the vision tower's features stand in its place; else None.

    Raises:
        DamagedSample: absent or broken.
    """
    return single(encoder(colours_of(raw, name))) if name in raw.features else None


def optional(raw: RawSample, name: str, transform: PixelTransform) -> Tensor | None:
    """An image field (1, C, H, W), None where the sample has none.

    Raises:
        DamagedSample: broken.
    """
    if not has_image(raw, name):
        return None
    return single(transform(image_of(raw, name) if isinstance(transform, MaskTransform) else colours_of(raw, name)))


def has_image(raw: RawSample, name: str) -> bool:
    """Whether a sample has an image field."""
    return f"{name}.jpg" in raw.fields or f"{name}.png" in raw.fields


@dataclass(frozen=True)
class PairDescription:
    """What a sample of pairs says beside its picture: a row of :class:`PairBatch`."""

    key: str
    text: str
    caption: str
    style: str
    product: int
    category: str
    subcategory: str
    labels: dict[str, Any]


@dataclass
class PairAssembler:
    """Pairs -> :class:`PairBatch`.

    Args:
        encoder: what the vision tower sees.
        pixels: target of the diffusion head, or None.
        text, caption: rules of the retrieval text and of the captioning target.
        style: instruction style of the captions, of samples with several as :func:`styled` has it.
        captions: descriptions by image id, instead of the shards' own.
        same: what makes two samples of a batch each other's positives: the same ``product`` or the same retrieval ``text``.
        flip: chance that a training image is mirrored.
        show: keep what people are shown beside features.
    """

    encoder: EncoderTransform
    pixels: PixelTransform | None = None
    text: PairText = "name_description"
    caption: PairText = "description"
    style: str = "fashiongen"
    captions: Mapping[str, str] | None = None
    same: Literal["product", "text"] = "product"
    flip: float = 0.0
    show: bool = False

    needs: ClassVar = frozenset({"image", "meta"})

    def sample(self, raw: RawSample, draw: Draw, dataset: str) -> PairBatch:
        said, image = self.describe(raw, draw), pixels_of(raw, "image", self.pixels)
        if self.flip and draw.epoch is not None and draw.rng(f"flip/{said.key}").random() < self.flip:
            image, raw = None if image is None else image.flip(-1), mirrored(raw, "image")
        return PairBatch(
            keys=[said.key],
            images=tower_input(raw, "image", self.encoder, image),
            texts=[said.text],
            captions=[said.caption],
            styles=[said.style],
            products=torch.tensor([said.product]),
            pixels=painted(raw, "image", self.pixels, image),
            categories=[said.category],
            subcategories=[said.subcategory],
            dataset=dataset,
            labels=[said.labels] if said.labels else [],
            pictures=shown_beside(raw, "image", self.encoder) if self.show else None,
        )

    def describe(self, raw: RawSample, draw: Draw) -> PairDescription:
        """All of a sample but its picture, which is not decoded.

        Raises:
            DamagedSample: the description is absent or broken.
        """
        meta = meta_of(raw, PairMeta)
        key, name = meta.get("id", raw.key), meta.get("name", "")
        description = meta.get("description", "") if self.captions is None else self.captions.get(key, "")
        text = product_text(name, description, self.text, draw)
        style, caption = styled({} if self.captions is not None else meta.get("captions", {}), self.style, draw, key)
        return PairDescription(
            key=key,
            text=text,
            caption=caption or product_text(name, description, self.caption, draw),
            style=style,
            product=number_of(text if self.same == "text" else str(meta.get("product", raw.key))),
            category=meta.get("category", ""),
            subcategory=meta.get("subcategory", ""),
            labels=meta.get("labels", {}),
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

    needs: ClassVar = frozenset({"reference", "target", "meta"})

    def sample(self, raw: RawSample, draw: Draw, dataset: str) -> TripletBatch:
        meta, target = meta_of(raw, TripletMeta), pixels_of(raw, "target", self.pixels)
        return TripletBatch(
            keys=[raw.key],
            references=tower_input(raw, "reference", self.encoder),
            targets=tower_input(raw, "target", self.encoder, target),
            texts=[modifying_text(meta["captions"], draw, raw.key, self.joiner)],
            captions=[self.captions.get(meta["target"], meta.get("caption", ""))],
            styles=[self.style],
            target_ids=torch.tensor([number_of(meta["target"])]),
            pixels=painted(raw, "target", self.pixels, target),
            categories=[meta["category"]],
            dataset=dataset,
        )


@dataclass
class GalleryAssembler:
    """Gallery images -> :class:`GalleryBatch`.

    Args:
        library: lines of a query-blind caption library by image id, see :func:`~unifashion_pl.data.captions.read_library`.
        allow_unsafe_captions: handed on to the evaluation, which else refuses captions without provenance.
        again: ids of the images that evaluation will ask for again; None = not known.
        show: keep what people are shown beside features.
    """

    encoder: EncoderTransform
    library: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    allow_unsafe_captions: bool = False
    planned: Mapping[str, int] = field(default_factory=dict)
    again: Collection[str] | None = None
    show: bool = False

    needs: ClassVar = frozenset({"image", "meta"})

    def sample(self, raw: RawSample, draw: Draw, dataset: str) -> GalleryBatch:
        meta = meta_of(raw, GalleryMeta)
        line = dict(self.library.get(meta["id"], {}))
        return GalleryBatch(
            keys=[meta["id"]],
            images=tower_input(raw, "image", self.encoder),
            pictures=shown_beside(raw, "image", self.encoder) if self.show else None,
            categories=[meta["category"]],
            captions=[line.pop("caption", "")],
            in_union=[meta["in_union"]],
            dataset=dataset,
            provenance=[line],
            allow_unsafe_captions=self.allow_unsafe_captions,
            planned=dict(self.planned),
            again=[] if self.again is None else [meta["id"] in self.again],
        )


@dataclass
class QueryAssembler:
    """Queries of an evaluation split -> :class:`QueryBatch`; ``pixels`` shows the target, if the split has one.

    Args:
        overlap: keys of the queries whose target also stands in a training split; None = not known. show: keep what people are shown beside features.
    """

    encoder: EncoderTransform
    pixels: PixelTransform | None = None
    joiner: Joiner = "and"
    planned: Mapping[str, int] = field(default_factory=dict)
    overlap: Collection[str] | None = None
    show: bool = False

    needs: ClassVar = frozenset({"reference", "meta"})

    def sample(self, raw: RawSample, draw: Draw, dataset: str) -> QueryBatch:
        meta = meta_of(raw, QueryMeta)
        return QueryBatch(
            keys=[raw.key],
            references=tower_input(raw, "reference", self.encoder),
            pictures=shown_beside(raw, "reference", self.encoder) if self.show else None,
            reference_ids=[meta["reference"]],
            target_ids=[meta.get("target", "")],
            texts=[modifying_text(meta["captions"], draw, raw.key, self.joiner)],
            categories=[meta["category"]],
            pixels=optional(raw, "target", self.pixels) if self.pixels else None,
            dataset=dataset,
            planned=dict(self.planned),
            joiner=self.joiner,
            overlap=[] if self.overlap is None else [raw.key in self.overlap],
            right=[meta["right"]] if "right" in meta else [],
        )


class TryOnAssembler:
    """Try-on samples -> :class:`TryOnBatch`.

    Args:
        encoder: of the garment photo for the vision tower.
        size: (H, W) of all other pictures.
        paired: whether the split pairs every person with its own garment.

    Attributes:
        body, drawing: names of the pictures :meth:`pose` and :meth:`sketch`, as latents are kept of them.
    """

    def __init__(self, encoder: EncoderTransform, size: tuple[int, int], paired: bool) -> None:
        self.encoder = encoder
        self.picture = PixelTransform(size)
        self.dark = PixelTransform(size, fill=BLACK)
        self.mask = MaskTransform(size)
        self.paired = paired
        self.body, self.drawing = "densepose", "sketch"

    needs: ClassVar = frozenset({"person", "garment", "mask", "meta"})

    def sample(self, raw: RawSample, draw: Draw, dataset: str) -> TryOnBatch:
        meta, garment = meta_of(raw, TryOnMeta), colours_of(raw, "garment")
        worn, pose, sketches = optional(raw, "warped_mask", self.mask), self.pose(raw), self.sketch(raw)
        return TryOnBatch(
            keys=[raw.key],
            garments=tower_input(raw, "garment", self.encoder, garment),
            pixels=single(self.picture(colours_of(raw, "person"))),
            masks=single(self.mask(image_of(raw, "mask"))),
            pose=pose,
            garment_pixels=single(self.picture(garment)),
            sketches=sketches,
            texts=[phrases_text(meta.get("phrases", []), draw, raw.key)],
            paired=self.paired,
            dataset=dataset,
            worn=worn,
            shapes=None if worn is None else optional(raw, "garment_mask", self.mask),
            latents=self.latents(raw, pose is not None, sketches is not None),
        )

    def latents(self, raw: RawSample, posed: bool, drawn: bool) -> Tensor | None:
        """Kept posteriors of all pictures that are encoded (1, 5, C, h, w), see :class:`TryOnBatch`; None where one of them has none."""
        names = ("person", GREYED, self.body, "garment", self.drawing)
        kept = [raw.features.get(kept_name(name)) for name in names]
        if kept[0] is None or any(one is None for one, own in zip(kept, (True, True, posed, True, drawn)) if own):
            return None
        return torch.stack([cells(torch.zeros_like(kept[0]) if one is None else one, self.picture) for one in kept], 1)

    def pose(self, raw: RawSample) -> Tensor | None:
        """The picture of the body, (1, 3, H, W)."""
        return optional(raw, "densepose", self.dark)

    def sketch(self, raw: RawSample) -> Tensor | None:
        """The sketch, (1, 3, H, W)."""
        return optional(raw, "sketch", self.dark)
