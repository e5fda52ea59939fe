"""Embeddings of images, texts and composed queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import torch
from torch import Tensor

from unifashion_pl.arguments import Images, OneImage, choice, rows_of
from unifashion_pl.backbone.appearance import Appearance
from unifashion_pl.backbone.qformer import QuerySet
from unifashion_pl.backbone.words import readable
from unifashion_pl.inference.images import image_list
from unifashion_pl.inference.requests import head_of, in_batches, pixels_for
from unifashion_pl.inference.text_encoder import fingerprint_of
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import require


def encode_image(model: FashionModel, images: Images, query_set: str = "reference", *, batch_size: int = 32) -> Tensor:
    """(B, Q, E) float32 unit vectors on the CPU, one per query token.

    Args:
        images: paths, PIL images, arrays (H, W, 3), tensors (3, H, W), uint8 or floats in 0..1; one or a list of B, or a tensor (B, 3, H, W).
        query_set: ``reference`` for text <-> image, ``target`` for what composed queries look for.
        batch_size: images that pass the model together; the vectors do not depend on it.

    Raises:
        FileNotFoundError, ValueError: an image that is not there or cannot be read, an unknown query set.

    >>> from PIL import Image
    >>> from unifashion_pl import UniFashionModule
    >>> model = UniFashionModule.from_pretrained("tiny", heads=["retrieval"])
    >>> red = Image.new("RGB", (64, 64), "red")
    >>> model.encode_image([red, red]).shape
    torch.Size([2, 8, 64])
    """
    return encode_image_sets(model, images, (query_set,), batch_size=batch_size)[query_set]


def encode_image_sets(
    model: FashionModel, images: Images, query_sets: Sequence[str], *, batch_size: int = 32, appearance: bool = False
) -> dict[str, Tensor]:
    """Several query sets from one pass of the vision tower: ``{query set: (B, Q, E)}``.

    Args:
        appearance: also ``appearance``, (B, 1, K), of a model that has one.
    """
    head, backbone = head_of(model, "retrieval"), model.backbone
    names = cast(list[QuerySet], [choice(name, "query set", get_args(QuerySet)) for name in query_sets])

    def work(items: list[OneImage]) -> list[Tensor]:
        seen = backbone.vision(pixels_for(model, items))
        features = backbone.image_features(seen)
        found = [head.image_vectors(backbone, features, name) for name in names]
        found += [appearance_of(model)(seen)[:, None]] if appearance else []
        return [one.float().cpu() for one in found]

    parts = in_batches(model, image_list(images), batch_size, work, "images")
    told = [*query_sets, *(["appearance"] if appearance else [])]
    return {name: torch.cat([part[i] for part in parts]) for i, name in enumerate(told)}


def appearance_of(model: FashionModel) -> Appearance:
    """What knows the same photo again.

    Raises:
        RuntimeError: none was chosen for this model.
    """
    if model.backbone.appearance is None:
        raise RuntimeError("this model has no appearance: choose one for it on photos of a catalogue (choose_appearance)")
    return model.backbone.appearance


def encode_text(model: FashionModel, texts: str | Sequence[str], *, batch_size: int = 256, strict: bool = False) -> Tensor:
    """(B, E) float32 unit vectors on the CPU; their products with an image's tokens are similarities.

    Args:
        texts: one or a list of B.
        batch_size: texts that pass the model together; the vectors do not depend on it.
        strict: refuse a text of which the model can read nothing; else it gets the vector of an empty text, and a warning names it.

    Raises:
        ValueError: no texts, something that is no text, or with ``strict`` an unreadable one.
        RuntimeError: the model has not learned to match texts and images.

    >>> from unifashion_pl import UniFashionModule
    >>> model = UniFashionModule.from_pretrained("tiny", heads=["retrieval"])
    >>> model.encode_text(["a red dress", "a blue shirt"]).shape
    torch.Size([2, 64])
    """
    head, listed = head_of(model, "retrieval"), readable(texts, model.backbone, strict=strict)
    require(model, "retrieval")
    model.backbone.warn_if_cut(listed)

    def work(part: list[str]) -> Tensor:
        vectors: Tensor = head.text_embeddings(model.backbone, part)
        return vectors.float().cpu()

    return torch.cat(in_batches(model, listed, batch_size, work, "texts"))


def compose(model: FashionModel, images: Images, texts: str | Sequence[str], *, batch_size: int = 32) -> Tensor:
    """(B, E) float32 unit vectors of reference image + modifying text, to be searched in a ``target`` gallery.

    Args:
        images: the references, as in :func:`encode_image`; one goes with every text.
        texts: what should be different, e.g. ``has longer sleeves``; one goes with every image.
        batch_size: pairs that pass the model together.

    Raises:
        ValueError: unequal numbers, or a text of which the model can read nothing.
        RuntimeError: the model has not learned to compose.

    >>> from PIL import Image
    >>> from unifashion_pl import UniFashionModule
    >>> model = UniFashionModule.from_pretrained("tiny", heads=["retrieval"])
    >>> red = Image.new("RGB", (64, 64), "red")
    >>> model.compose(red, ["in blue", "with long sleeves"]).shape
    torch.Size([2, 64])
    """
    head = head_of(model, "retrieval")
    require(model, "composed")
    listed = readable(texts, model.backbone)
    model.backbone.warn_if_cut(listed)
    pairs = rows_of({"images": image_list(images), "texts": listed})

    def work(part: list[dict[str, Any]]) -> Tensor:
        pixels = pixels_for(model, [row["images"] for row in part])
        vectors: Tensor = head.compose(model.backbone, pixels, [row["texts"] for row in part])
        return vectors.float().cpu()

    return torch.cat(in_batches(model, pairs, batch_size, work, "composing"))


def fingerprint(model: FashionModel) -> str:
    """Which model made vectors: a hash of the small tensors that every training of the embeddings changes: queries, ``ln_vision``, both projections.

    Of a published encoder its text tower's last tensors are added; queries count as soon as something is projected of them.
    """
    backbone, head = model.backbone, model.retrieval_head
    state = {**backbone.ln_vision.state_dict(), "queries": backbone.query_tokens}
    if head is not None:
        state |= {f"v.{n}": t for n, t in head.vision_proj.state_dict().items()}
        state |= {f"t.{n}": t for n, t in head.text_proj.state_dict().items()}
        if backbone.text_tower is not None:
            if not any(t.any() for n, t in state.items() if n != "queries"):
                del state["queries"]
            state |= {f"p.{n}": t for n, t in backbone.text_tower.last_tensors().items()}
    return _hash(state)


def appearance_fingerprint(model: FashionModel) -> str | None:
    """Which projection made appearance vectors; None of a model that has none. How much they count is no part of it."""
    found = model.backbone.appearance
    return None if found is None else _hash({"mean": found.mean, "projection": found.projection})


def _hash(state: Mapping[str, Tensor]) -> str:
    return fingerprint_of({name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()})
