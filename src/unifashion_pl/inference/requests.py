"""What all requests to a model share: what it can read, the heads that it has, batches, pictures as it wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from unifashion_pl import toy
from unifashion_pl.arguments import OneImage, count
from unifashion_pl.backbone import QFormerBackbone
from unifashion_pl.data.samples import EditBatch
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.generation import PromptEncoder
from unifashion_pl.generation.samplers import scale_of
from unifashion_pl.inference.images import open_image
from unifashion_pl.interface import FashionModel
from unifashion_pl.tasks.eval_mode import Parts, evaluating

T = TypeVar("T")
R = TypeVar("R")
#: Pictures that are painted at once where nothing is said; with guidance the U-Net has twice as many rows.
TOGETHER = 4
#: Parts of a model that read texts.
Reader = QFormerBackbone | PromptEncoder
HEADS = {"retrieval": "embeddings", "caption": "captions", "diffusion": "images"}


def head_of(model: FashionModel, name: str) -> Any:
    """A head of the model.

    Raises:
        RuntimeError: the model was built without it.
    """
    head = getattr(model, f"{name}_head")
    if head is None:
        present = [n for n in HEADS if getattr(model, f"{n}_head") is not None]
        raise RuntimeError(
            f"this model has no {name} head, so it cannot make {HEADS[name]} (it has: {', '.join(present) or 'none'}): "
            f"load or train one with `model.{name}` configured"
        )
    return head


def readers_of(model: FashionModel, *, with_backbone: bool) -> list[Reader]:
    """Who reads the text of a picture that is to be painted: the head's text encoder, if it has one, and the backbone beside an image."""
    encoder = getattr(head_of(model, "diffusion"), "text_encoder", None)  # a head of one's own may read no text
    return [*([model.backbone] if with_backbone else []), *([encoder] if encoder is not None else [])]


def check_scales(settings: Mapping[str, Any]) -> None:
    """Scales of guidance that a person asks for: at 0 the picture would be painted from the absence of what was asked for.

    Raises:
        ValueError: not a number above 0.
    """
    for name in ("guidance", "garment_guidance"):
        if settings.get(name) is not None:
            scale_of(settings[name], name, zero=False)


def in_batches(model: Parts, items: Sequence[T], size: int, work: Callable[[list[T]], R], what: str) -> list[R]:
    """``work`` on batches of items, in eval mode without gradients, with a progress bar when there are more than a few.

    Afterwards every module is in the mode it was in.
    """
    size = count(size, "batch_size")
    starts = range(0, len(items), size)
    bar = tqdm(starts, desc=what, unit="batch", disable=len(starts) < 8, leave=False)
    with evaluating(model), torch.no_grad():
        return [work(list(items[start : start + size])) for start in bar]


def composed_queries(model: FashionModel, references: Tensor, texts: Sequence[str]) -> Tensor:
    """Queries (B, Q, D) of composed queries, each alone: among others its text would be padded to the longest, which changes a last bit.

    A row that was there before, as in variations of one request, is not encoded again.
    """
    backbone = model.backbone

    def encode(i: int) -> Tensor:
        return backbone.fused_pass(backbone.image_features(references[i : i + 1]), backbone.tokenize([texts[i]]))[0]

    return each_once(len(texts), lambda i, j: texts[i] == texts[j] and torch.equal(references[i], references[j]), encode)


def edit_queries(model: FashionModel, batch: EditBatch) -> Tensor:
    """Queries (B, Q, D) of what persons are painted from, each alone and once."""

    def same(i: int, j: int) -> bool:
        return batch.texts[i] == batch.texts[j] and torch.equal(batch.images[i], batch.images[j])

    return each_once(len(batch), same, lambda i: model.backbone.encode(batch[i]).queries)


def each_once(rows: int, same: Callable[[int, int], bool], encode: Callable[[int], Tensor]) -> Tensor:
    """(rows, …) of ``encode``'s (1, …); a row that is the same as an earlier one is that one's."""
    made: list[Tensor] = []
    for i in range(rows):
        first = next((j for j in range(i) if same(i, j)), None)
        made.append(encode(i) if first is None else made[first])
    return torch.cat(made)


def pixels_for(model: FashionModel, items: Sequence[OneImage]) -> Tensor:
    """Images -> (B, 3, S, S) uint8 as the vision tower of this model wants them, on its device."""
    transform = EncoderTransform(model.backbone.vision.image_size)
    opened = [open_image(item) for item in items]
    toy.tell(model, opened)
    return torch.stack([transform(image) for image in opened]).to(model.device)
