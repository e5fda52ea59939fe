"""Typed batches: the only thing that travels between DataModules and models.

Letters: B batch, S encoder image side, H × W generation size (pixels). Every image tensor is **uint8 RGB**; towers and heads
normalise on the device, so that a batch is four times smaller on its way there and the data side needs no model's constants. In memory the
colours of a pixel may lie side by side (torch's ``channels_last``), as decoders write them: ``reshape``, not ``view``.

What is meant for a frozen vision tower (``images``, ``references``, ``targets``, ``garments``) may instead be the tower's own
outputs, (B, P, W) bfloat16 or float32, made before by :mod:`unifashion_pl.data.features`: P tokens of width W. ``pictures`` are then
(B, 3, S, S) uint8 for people to look at, where somebody does (test), else None. In the same way ``pixels`` of training pairs and triplets may be the
autoencoder's posteriors, (B, 8, H/8, W/8) of floats (:mod:`unifashion_pl.data.latents`); persons carry theirs beside their pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from unifashion_pl.data.texts import number_of
from unifashion_pl.data.transforms import to_pil
from unifashion_pl.pages import MOST, Tile, preview

#: Devices that copies are waited for.
WAITED_FOR = ("cpu", "mps")
#: Marks a field that says something of the whole batch; all others are columns.
COMMON = {"common": True}


def sent(value: Tensor, device: str | torch.device) -> Tensor:
    """A tensor on a device; the host goes on at once where the device takes copies and work in one order."""
    device = torch.device(device)
    return value.to(device, non_blocking=device.type not in WAITED_FOR)


@dataclass(kw_only=True, repr=False)
class Columns:
    """Samples, B of them; one sample is a batch of one.

    A column is a tensor or list of one entry per sample, None or [] where the samples have no such thing. Fields marked
    :data:`COMMON` hold for all samples.
    """

    def __len__(self) -> int:
        return len(getattr(self, _fields(type(self))[0].name))

    def __repr__(self) -> str:
        return f"{self._head()}: {', '.join(f'{name} {_brief(value)}' for name, value in self.columns().items())}"

    def _head(self) -> str:
        dataset = getattr(self, "dataset", "")
        return f"{type(self).__name__} of {len(self)}" + (f" from {dataset}" if dataset else "")

    def _repr_html_(self) -> str:
        """Its pictures, each sample's beside each other, with its texts."""
        kept = self.columns()
        pictures = {n: v for n, v in kept.items() if isinstance(v, Tensor) and v.dtype == torch.uint8 and v.dim() == 4}
        texts = {n: v for n, v in kept.items() if isinstance(v, list) and n != "keys" and isinstance(v[0], str)}
        tiles = []
        rows = min(len(self), max(1, MOST // max(1, len(pictures))))
        for row in range(rows):
            key = kept["keys"][row] if "keys" in kept else str(row)
            said = [f"{name}: {column[row]}" for name, column in texts.items() if column[row]]
            for number, (name, column) in enumerate(pictures.items() or [("", None)]):
                lines = (f"{key} {name}".strip(), *([] if number else said))
                tiles.append(Tile(lines, None if column is None else to_pil(column[row])))
        return preview(f"{self._head()}, the first {rows}", tiles)

    def columns(self) -> dict[str, Any]:
        """The columns that there are, by name."""
        named = ((f.name, getattr(self, f.name)) for f in _fields(type(self)) if "common" not in f.metadata)
        return {name: value for name, value in named if isinstance(value, Tensor) or value}

    def __getitem__(self, rows: int | slice | Sequence[int]) -> Self:
        """The samples ``rows``, in that order; a sample may come more than once."""
        places = range(len(self))
        if isinstance(rows, int):
            chosen = [places[rows]]
        else:
            chosen = list(places[rows]) if isinstance(rows, slice) else list(rows)
        if chosen == list(places):
            return self
        columns = self.columns().items()
        return replace(self, **{n: v[chosen] if isinstance(v, Tensor) else [v[i] for i in chosen] for n, v in columns})

    def to(self, device: str | torch.device) -> Self:
        """The same samples with their tensors on a device."""
        tensors = {name: value for name, value in self.columns().items() if isinstance(value, Tensor)}
        return replace(self, **{name: sent(value, device) for name, value in tensors.items()})

    def pin_memory(self) -> Self:
        """The same samples in memory from which a GPU copies by itself; torch's DataLoader asks for it."""
        tensors = {name: value for name, value in self.columns().items() if isinstance(value, Tensor)}
        return replace(self, **{name: value.pin_memory() for name, value in tensors.items()})

    @classmethod
    def cat(cls, parts: Sequence[Self], order: Sequence[tuple[int, int]] | None = None) -> Self:
        """Batches of one kind, one behind the other; a column that one of them lacks, all lack. What is common is the first's.

        Args:
            order: (part, row of it) of each sample of the result, instead of one part behind the other.
        """
        made: dict[str, Any] = {}
        lengths = [len(part) for part in parts]
        for column in _fields(cls):
            values = [getattr(part, column.name) for part in parts]
            if "common" in column.metadata:
                made[column.name] = values[0]
            elif any(value is None for value in values):
                made[column.name] = None
            elif any(len(value) < length for value, length in zip(values, lengths)):
                made[column.name] = []
            elif isinstance(values[0], Tensor):
                made[column.name] = torch.cat(values) if order is None else _rows(values, order)
            elif order is None:
                made[column.name] = [entry for value in values for entry in value]
            else:
                made[column.name] = [values[part][row] for part, row in order]
        return cls(**made)


def _brief(value: Tensor | list[Any]) -> str:
    """A column in a few words: what a tensor is, how many entries of a list and the first."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    first = repr(value[0])
    return f"[{first if len(first) <= 40 else first[:39] + '…'}{', …' if len(value) > 1 else ''}]"


def _rows(values: Sequence[Tensor], order: Sequence[tuple[int, int]]) -> Tensor:
    """Rows of several tensors as one, each copied once; in pinned memory if they lie there, or a GPU would have to wait for the copy."""
    rows = [values[part][row : row + 1] for part, row in order]
    if not rows or not all(value.is_pinned() for value in values):
        return torch.cat(rows)
    beside = values[0].dim() == 4 and all(value.is_contiguous(memory_format=torch.channels_last) for value in values)
    layout = torch.channels_last if beside else torch.contiguous_format
    shape = (len(rows), *rows[0].shape[1:])
    room = torch.empty(shape, dtype=values[0].dtype, pin_memory=True, memory_format=layout)
    return torch.cat(rows, out=room)


_known: dict[Any, tuple[Field[Any], ...]] = {}


def _fields(kind: Any) -> tuple[Field[Any], ...]:
    """``dataclasses.fields``, which gathers them anew at every call."""
    if kind not in _known:
        _known[kind] = fields(kind)
    return _known[kind]


@dataclass(kw_only=True, repr=False)
class PairBatch(Columns):
    """Image–text pairs (phase 1; FashionGen, Fashion200K, Fashion-IQ-Cap, a user's catalogue).

    Attributes:
        keys: sample ids (row or view), unique in the dataset.
        images: (B, 3, S, S) uint8, what the vision tower sees.
        texts: retrieval text of each pair (the dataset's text rule applied, not yet cleaned for the Q-Former).
        captions: captioning target of each pair, punctuation kept; "" = none.
        styles: instruction style of each caption: ``fashion200k``, ``fashiongen`` or ``fashioniq``.
        products: (B,) int64, equal for views of one product; equal ids are never negatives of each other.
        pixels: (B, 3, H, W) uint8 target of the diffusion head, or None when it is not asked for.
        categories, subcategories: what evaluation protocols group by.
        dataset: e.g. ``fashiongen/validation``; evaluation keeps datasets apart by it.
        labels: what a dataset of one's own says further of each sample, for heads and measures of one's own; [] = nothing.
    """

    keys: list[str]
    images: Tensor
    texts: list[str]
    captions: list[str]
    styles: list[str]
    products: Tensor
    pixels: Tensor | None
    categories: list[str]
    subcategories: list[str]
    dataset: str = field(metadata=COMMON)
    labels: list[dict[str, Any]] = field(default_factory=list)
    pictures: Tensor | None = None

    @property
    def prompts(self) -> list[str]:
        """What the diffusion head's text encoder reads: the caption (Eq. 7)."""
        return self.captions

    @property
    def shown(self) -> Tensor | None:
        """What people are shown: (B, 3, S, S) uint8, None where there are features alone."""
        return _shown(self.images, self.pictures)

    @classmethod
    def interleave(cls, parts: Sequence[PairBatch]) -> PairBatch:
        """Batches of several datasets as one, evenly interleaved: heads that learn from the first n samples get all of them.

        Pixels only if all parts have them; product numbers are kept apart from each other.
        """
        places = sorted(((i + 0.5) / len(part), number, i) for number, part in enumerate(parts) for i in range(len(part)))
        order = [(number, i) for _, number, i in places]
        apart = [replace(part, products=part.products ^ number_of(part.dataset)) for part in parts]
        return replace(cls.cat(apart, order), dataset="+".join(part.dataset for part in parts))


@dataclass(kw_only=True, repr=False)
class TripletBatch(Columns):
    """Composed training samples (phase 2; Fashion-IQ): reference image + modifying text -> target image.

    Attributes:
        keys: e.g. ``dress-train-00017``.
        references, targets: (B, 3, S, S) uint8.
        texts: modifying text, joined by the dataset's rule.
        captions: the target's caption for L_ITG and the caption term of L_cir; "" = none.
        styles: instruction style of each caption.
        target_ids: (B,) int64, equal for equal target images, or for targets that answer each other's queries as well.
        pixels: (B, 3, H, W) uint8 target image at generation size, or None.
        categories, dataset: as in :class:`PairBatch`.
    """

    keys: list[str]
    references: Tensor
    targets: Tensor
    texts: list[str]
    captions: list[str]
    styles: list[str]
    target_ids: Tensor
    pixels: Tensor | None
    categories: list[str]
    dataset: str = field(metadata=COMMON)

    @property
    def prompts(self) -> list[str]:
        """What the diffusion head's text encoder reads: the modifying text (Eq. 12)."""
        return self.texts


@dataclass(kw_only=True, repr=False)
class GalleryBatch(Columns):
    """Images to be searched (one per id of a split).

    ``captions`` are query-blind generated captions, "" = none, and ``provenance`` says of each how it was made: a line of its
    library, {} where there is no caption, an empty list if there are none. ``allow_unsafe_captions``: evaluate captions that do not
    prove to be query-blind, and label the results. ``planned``: images per category of the whole gallery, {} = not known. ``again``:
    whether a query or another category will ask for the image too, [] = not known.
    """

    keys: list[str]
    images: Tensor
    categories: list[str]
    captions: list[str]
    in_union: list[bool]
    dataset: str = field(metadata=COMMON)
    provenance: list[dict[str, Any]] = field(default_factory=list)
    allow_unsafe_captions: bool = field(default=False, metadata=COMMON)
    planned: dict[str, int] = field(default_factory=dict, metadata=COMMON)
    again: list[bool] = field(default_factory=list)
    pictures: Tensor | None = None

    @property
    def shown(self) -> Tensor | None:
        """What people are shown: (B, 3, S, S) uint8, None where there are features alone."""
        return _shown(self.images, self.pictures)


@dataclass(kw_only=True, repr=False)
class QueryBatch(Columns):
    """Composed queries of an evaluation split: reference image + modifying text, the target known by its id only.

    ``pixels`` is (B, 3, H, W) uint8 of the *target*, only to be shown beside a generated image, or None. ``planned``: queries per
    category of the whole split, {} = not known; ``joiner``: the rule that joined the texts, as protocols name it; ``overlap``: whether the
    target also stands in a training split, [] = not known; ``right``: ids of all images that answer, [] = the target alone."""

    keys: list[str]
    references: Tensor
    reference_ids: list[str]
    target_ids: list[str]
    texts: list[str]
    categories: list[str]
    pixels: Tensor | None
    dataset: str = field(metadata=COMMON)
    planned: dict[str, int] = field(default_factory=dict, metadata=COMMON)
    joiner: str = field(default="and", metadata=COMMON)
    overlap: list[bool] = field(default_factory=list)
    right: list[list[str]] = field(default_factory=list)
    pictures: Tensor | None = None

    @property
    def shown(self) -> Tensor | None:
        """What people are shown: (B, 3, S, S) uint8, None where there are features alone."""
        return _shown(self.references, self.pictures)


@dataclass(kw_only=True, repr=False)
class TryOnBatch(Columns):
    """Try-on and design samples (VITON-HD, MGD).

    Attributes:
        keys: person id, or ``person__garment`` when unpaired.
        garments: (B, 3, S, S) uint8, the in-shop photo for the vision tower.
        pixels: (B, 3, H, W) uint8, the person wearing the garment: the target in training, the truth in paired evaluation.
        masks: (B, 1, H, W) bool, **True = repaint** (files and users: white = repaint).
        pose: (B, 3, H, W) uint8, DensePose image or RGB skeleton, or None.
        garment_pixels: (B, 3, H, W) uint8, the in-shop photo at generation size.
        sketches: (B, 3, H, W) uint8, light strokes on black, or None.
        texts: joined phrases of the garment, "" = none.
        paired: whether person and garment belong together.
        worn: (B, 1, H, W) bool, where the person wears the garment, or None.
        shapes: (B, 1, H, W) bool, where the garment lies in ``garment_pixels``, or None; not read where ``worn`` is None.
        latents: (B, 5, 8, H/8, W/8) floats, the autoencoder's posteriors of ``pixels``, of them greyed where they are repainted, of
            ``pose``, ``garment_pixels`` and ``sketches`` (anything where there is none), or None: they are encoded.
    """

    keys: list[str]
    garments: Tensor
    pixels: Tensor
    masks: Tensor
    pose: Tensor | None
    garment_pixels: Tensor
    sketches: Tensor | None
    texts: list[str]
    paired: bool = field(metadata=COMMON)
    dataset: str = field(metadata=COMMON)
    worn: Tensor | None = None
    shapes: Tensor | None = None
    latents: Tensor | None = None


@dataclass(kw_only=True, repr=False)
class EditBatch(Columns):
    """What is to be painted on persons: rows of try-on and of design, made from a :class:`TryOnBatch` or from a user's inputs.

    A row that lacks something has False in the matching ``has_…``, and what stands in its place is not looked at.

    Attributes:
        images: (B, 3, S, S) uint8, what the vision tower sees: the garment's photo (try-on) or sketch (design).
        has_image: (B,) bool.
        texts: modifying texts, "" in try-on.
        pixels: (B, 3, H, W) uint8, the person; in training the target.
        masks: (B, 1, H, W) bool, True = repaint.
        pose: (B, 3, H, W) uint8. has_pose: (B,) bool.
        garments: (B, 3, H, W) uint8, what the garment branch sees: photo or sketch. has_garment, has_photo: (B,) bool.
        worn: (B, 1, H, W) bool, where the person wears the garment, or None: training's optional losses read it.
        shapes: (B, 1, H, W) bool, where the garment lies in its photo, or None; the same.
        latents: (B, 4, 8, H/8, W/8) floats, posteriors of ``pixels``, of them greyed, of ``pose`` and ``garments``, for training, or None.
        known: ``has_pose`` and ``has_garment`` in Python, so that training need not ask the device; [] = look there.
    """

    images: Tensor
    has_image: Tensor
    texts: list[str]
    pixels: Tensor
    masks: Tensor
    pose: Tensor
    has_pose: Tensor
    garments: Tensor
    has_garment: Tensor
    has_photo: Tensor
    worn: Tensor | None = None
    shapes: Tensor | None = None
    latents: Tensor | None = None
    known: list[tuple[bool, bool]] = field(default_factory=list)


TrainBatch = PairBatch | TripletBatch | TryOnBatch | EditBatch
#: Kind of a training batch -> the stream it makes by itself.
STREAMS: dict[type[TrainBatch], str] = {PairBatch: "pairs", TripletBatch: "triplets", TryOnBatch: "tryon", EditBatch: "edits"}
#: What DataModules yield; edits are made of try-on samples by the diffusion head.
Batch = PairBatch | TripletBatch | TryOnBatch | GalleryBatch | QueryBatch


def _shown(seen: Tensor, pictures: Tensor | None) -> Tensor | None:
    return seen if seen.dtype == torch.uint8 else pictures


def by_stream(batch: Any) -> dict[str, TrainBatch]:
    """What a training step is given, as ``{stream: batch}``; of plain loaders, a stream is named by what its batches are.

    Args:
        batch: as the loaders yield it: a mapping, one batch, or a list of them.

    Raises:
        TypeError: something else, with what is expected.
    """
    if isinstance(batch, Mapping):
        given = dict(batch)
    else:
        parts = batch if isinstance(batch, list | tuple) else [batch]
        names = [next((name for kind, name in STREAMS.items() if isinstance(part, kind)), "") for part in parts]
        given = {name + ("" if name not in names[:n] else f"_{n}"): part for n, (name, part) in enumerate(zip(names, parts))}
    for name, part in given.items():
        if not isinstance(part, TrainBatch):
            found = f"{type(part).__name__} as {name!r}" if isinstance(batch, Mapping) else type(part).__name__
            raise TypeError(
                f"a training step takes a PairBatch, a TripletBatch or a TryOnBatch of unifashion_pl.data.samples, or {{stream: batch}} of "
                f"them, and the loader gave {found}: make batches of your samples (DataLoader(collate_fn=...)), and of several loaders "
                "one, CombinedLoader({'pairs': ..., 'triplets': ...})"
            )
    return given
