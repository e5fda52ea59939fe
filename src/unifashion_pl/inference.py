"""The model on what people have at hand: paths, PIL images, arrays, tensors, lists of them. Plain functions behind the methods of
:class:`unifashion_pl.UniFashionModule`.

All of them work in batches without keeping gradients, put the model into eval mode and back, and give the same answer for any
batch size. Results lie on the CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast, get_args

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from unifashion_pl import toy
from unifashion_pl.arguments import ArgumentError, Seeds, count, number, seeds, text_list
from unifashion_pl.backbone.qformer import QuerySet
from unifashion_pl.backbone.tokenizer import Reading, scripts_of, shorten
from unifashion_pl.data.transforms import EncoderTransform, to_pil
from unifashion_pl.inference_images import Images, OneImage, image_list, open_image
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import require
from unifashion_pl.tasks import eval_mode

T = TypeVar("T")
#: Pictures that are painted at once, always: a library's kernels round differently for other numbers of rows, which shows in a last bit.
TOGETHER = 2
HEADS = {"retrieval": "embeddings", "caption": "captions", "diffusion": "images"}


class Reader(Protocol):
    """A part of the model that reads texts: the backbone, or a text encoder."""

    tokenizer: Any

    def reading_of(self, text: str) -> Reading:
        """What its vocabulary has of a text."""


def readable(texts: str | Iterable[str], *readers: Reader, strict: bool = True) -> list[str]:
    """The texts of a request as a list, if the model can read them. Words that one of the readers has not are named in a warning.

    Args:
        readers: backbone, text encoder: whoever reads them.
        strict: refuse texts of which no reader has anything; else a warning names them.

    Raises:
        ValueError: no texts, or with ``strict`` one that says nothing to the model: two such texts would be one and the same request.
    """
    listed = text_list(texts)
    found = [[reader.reading_of(text) for reader in readers] for text in listed]
    parts = [part for row in found for part in row]
    if unknown := _quoted(word for part in parts for word in part.unknown):
        warnings.warn(f"not in this model's vocabulary, so not read: {unknown}", stacklevel=4)
    if spelled := _quoted(word for part in parts for word in part.spelled):
        warnings.warn(f"read letter by letter, so without a meaning: {spelled}", stacklevel=4)
    if silent := [text for text, row in zip(listed, found) if row and not any(part.says for part in row)]:
        scripts = " or ".join(dict.fromkeys(scripts_of(reader.tokenizer) for reader in readers))
        message = f"nothing of {_quoted(silent)} can be read by this model's tokenizer: expected words ({scripts} letters)"
        if strict:
            raise ArgumentError(message)
        warnings.warn(f"{message}; {len(silent)} of {len(listed)} texts get the vector of an empty one", stacklevel=4)
    return listed


def _quoted(texts: Iterable[str]) -> str:
    """The first few different texts, for messages."""
    different = list(dict.fromkeys(texts))
    return ", ".join(repr(shorten(text, 60)) for text in different[:5]) + " …" * (len(different) > 5)


def paired(images: list[OneImage], texts: list[str]) -> tuple[list[OneImage], list[str]]:
    """Equally many images and texts; a single one of either goes with all of the other.

    Raises:
        ValueError: two different numbers.
    """
    n = max(len(images), len(texts))
    images, texts = images * n if len(images) == 1 else images, texts * n if len(texts) == 1 else texts
    if len(images) != len(texts):
        raise ValueError(f"{len(images)} images and {len(texts)} texts: expected equally many, or one of either")
    return images, texts


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
        scale, expected = settings.get(name), "a number above 0; 1 = none"
        if scale is not None and number(scale, name, expected) <= 0:
            raise ArgumentError(f"{name} is {scale}, expected {expected}")


@contextmanager
def evaluating(model: FashionModel) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module is in the mode it was in."""
    with eval_mode.evaluating(model), torch.no_grad():
        yield


def in_batches(items: Sequence[T], size: int, work: Callable[[list[T]], Any], what: str) -> list[Any]:
    """``work`` on batches of items, with a progress bar when there are more than a few."""
    size = count(size, "batch_size")
    starts = range(0, len(items), size)
    bar = tqdm(starts, desc=what, unit="batch", disable=len(starts) < 8, leave=False)
    return [work(list(items[start : start + size])) for start in bar]


def painted_in_batches(items: Sequence[T], size: int, work: Callable[[list[T]], list[Image.Image]]) -> list[Image.Image]:
    """As :func:`in_batches`, one picture an item, and always :data:`TOGETHER` at once, so that ``size`` cannot change a picture."""
    if size < 1:
        raise ValueError(f"batch_size is {size}, expected at least 1")

    def group(part: list[T]) -> list[Image.Image]:
        return work([*part, *part[:1] * (TOGETHER - len(part))])[: len(part)]

    return [picture for part in in_batches(items, TOGETHER, group, "painting") for picture in part]


def pixels_for(model: FashionModel, items: Sequence[OneImage]) -> Tensor:
    """Images -> (B, 3, S, S) uint8 as the vision tower of this model wants them, on its device."""
    transform = EncoderTransform(model.backbone.vision.image_size)
    opened = [open_image(item) for item in items]
    toy.tell(model, opened)
    return torch.stack([transform(image) for image in opened]).to(model.device)


def encode_image(model: FashionModel, images: Images, query_set: str = "reference", *, batch_size: int = 32) -> Tensor:
    """(B, Q, E) unit vectors, one per query token: ``reference`` for text <-> image, ``target`` for composed search."""
    return encode_image_sets(model, images, (query_set,), batch_size=batch_size)[query_set]


def encode_image_sets(
    model: FashionModel, images: Images, query_sets: Sequence[str], *, batch_size: int = 32
) -> dict[str, Tensor]:
    """Several query sets from one pass of the vision tower: ``{query set: (B, Q, E)}``."""
    head, backbone = head_of(model, "retrieval"), model.backbone
    known = get_args(QuerySet)
    if unknown := [str(name) for name in query_sets if not isinstance(name, str) or name not in known]:
        raise ArgumentError(f"unknown query set {', '.join(sorted(unknown))}: expected {' or '.join(known)}")
    names = cast(Sequence[QuerySet], query_sets)

    def work(items: list[OneImage]) -> list[Tensor]:
        features = backbone.image_features(pixels_for(model, items))
        return [head.project_images(backbone.image_pass(features, name)).float().cpu() for name in names]

    with evaluating(model):
        parts = in_batches(image_list(images), batch_size, work, "images")
    return {name: torch.cat([part[i] for part in parts]) for i, name in enumerate(query_sets)}


def encode_text(model: FashionModel, texts: str | Sequence[str], *, batch_size: int = 256, strict: bool = False) -> Tensor:
    """(B, E) unit vectors.

    Args:
        strict: refuse a text of which the model can read nothing; else it gets the vector of an empty text, and a warning names it.

    Raises:
        ValueError: no texts, something that is no text, or with ``strict`` an unreadable one.
        RuntimeError: the model has not learned to match texts and images.
    """
    head, listed = head_of(model, "retrieval"), readable(texts, model.backbone, strict=strict)
    require(model, "retrieval")
    model.backbone.warn_if_cut(listed)
    with evaluating(model):
        return torch.cat(
            in_batches(listed, batch_size, lambda part: head.text_embeddings(model.backbone, part).float().cpu(), "texts")
        )


def compose(model: FashionModel, images: Images, texts: str | Sequence[str], *, batch_size: int = 32) -> Tensor:
    """(B, E) unit vectors of reference image + modifying text, to be searched in a ``target`` gallery.

    Raises:
        ValueError: unequal numbers, or a text of which the model can read nothing.
        RuntimeError: the model has not learned to compose.
    """
    head = head_of(model, "retrieval")
    require(model, "composed")
    listed = readable(texts, model.backbone)
    model.backbone.warn_if_cut(listed)
    pairs = list(zip(*paired(image_list(images), listed)))

    def work(part: list[tuple[OneImage, str]]) -> Tensor:
        pixels = pixels_for(model, [image for image, _ in part])
        vectors: Tensor = head.compose(model.backbone, pixels, [text for _, text in part])
        return vectors.float().cpu()

    with evaluating(model):
        return torch.cat(in_batches(pairs, batch_size, work, "composing"))


def caption(
    model: FashionModel, images: Images, *, style: str = "fashiongen", batch_size: int = 8, **settings: Any
) -> list[str]:
    """One caption per image.

    Args:
        style: ``fashion200k``, ``fashiongen`` or ``fashioniq`` (Table 7).
        settings: of the caption head's ``generate``, e.g. ``num_beams``, ``max_new_tokens``.

    Raises:
        RuntimeError: the model has not learned to caption.
    """
    head = head_of(model, "caption")
    require(model, "caption")

    def work(items: list[OneImage]) -> list[str]:
        queries = model.backbone.image_pass(model.backbone.image_features(pixels_for(model, items)))
        texts: list[str] = head.generate(queries, [style] * len(items), **settings)
        return texts

    with evaluating(model):
        return [text for part in in_batches(image_list(images), batch_size, work, "captions") for text in part]


def generate(
    model: FashionModel,
    prompt: str | Sequence[str],
    *,
    image: Images | None = None,
    seed: Seeds = 0,
    batch_size: int = 4,
    **settings: Any,
) -> list[Image.Image]:
    """One image per prompt, as PIL.

    Args:
        prompt: a text, or a modifying text when there is an image; or a list.
        image: reference image(s) whose composition with the text guides the painting (Eq. 12), or None for text alone.
        seed: one for all prompts, or one each. A single prompt with several seeds gives variations.
        batch_size: without effect on the pictures, which are painted in pairs.
        settings: of the diffusion head's ``generate``: ``sampler``, ``guidance``, ``steps``.

    Raises:
        ValueError: unequal numbers, a seed that is no whole number from 0, or a prompt of which the model can read nothing.
        RuntimeError: the model has not learned to paint from this.
    """
    head = head_of(model, "diffusion")
    require(model, "generation" if image is None else "composed generation")
    prompts = readable(prompt, *readers_of(model, with_backbone=image is not None))
    noise = seeds(seed)
    check_scales(settings)
    images: list[OneImage | None] = list(image_list(image)) if image is not None else [None]
    n = max(len(prompts), len(noise), len(images))
    if any(len(column) not in (1, n) for column in (prompts, noise, images)):
        raise ValueError(f"{len(prompts)} prompts, {len(images)} images, {len(noise)} seeds: expected equal numbers or one")
    if image is not None:
        model.backbone.warn_if_cut(prompts)
    rows = [(prompts[i % len(prompts)], images[i % len(images)], noise[i % len(noise)]) for i in range(n)]

    def work(part: list[tuple[str, OneImage | None, int]]) -> list[Image.Image]:
        texts, pictures, own = [p for p, _, _ in part], [i for _, i, _ in part if i is not None], [s for _, _, s in part]
        queries = None
        if pictures:
            backbone = model.backbone
            features = [
                backbone.image_features(pixels_for(model, [picture])) for picture in pictures
            ]  # alone: texts are padded to the longest
            queries = torch.cat([backbone.fused_pass(f, backbone.tokenize([text]))[0] for f, text in zip(features, texts)])
        made: Tensor = head.generate(queries, texts, seeds=own, **settings)
        return [to_pil(picture) for picture in made]

    with evaluating(model):
        return painted_in_batches(rows, batch_size, work)
