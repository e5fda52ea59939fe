"""A model whose understanding is known: it reads statements one by one, and may be deaf to some words; and data for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from small import images, pair_batch
from torch import Tensor, nn

from unifashion_pl.backbone.words import Reading
from unifashion_pl.data.samples import Batch, GalleryBatch, PairBatch, QueryBatch

COLOURS, PATTERNS = ["red", "blue", "black", "green", "white"], ["plain", "striped", "dotted", "floral"]
LOOKS = [(c, p) for c in COLOURS for p in PATTERNS]
SLOTS = [*COLOURS, *PATTERNS]


def picture(number: int) -> Tensor:
    """A uniform picture whose shade is its number."""
    return torch.full((3, 8, 8), number, dtype=torch.uint8)


def look_vector(colour: str, pattern: str) -> Tensor:
    vector = torch.zeros(len(SLOTS))
    vector[SLOTS.index(colour)], vector[SLOTS.index(pattern)] = 1.0, 0.75
    return vector


class Reader(nn.Module):
    """Embeds the look number of a picture; of a text it replaces the colour or pattern that it names, or avoids what it denies.

    Args:
        hears_no: whether denials are understood.
        deaf_to: a word that makes it ignore the statement.
    """

    def __init__(self, hears_no: bool = True, deaf_to: str = "nothing at all") -> None:
        super().__init__()
        self.hears_no, self.deaf_to = hears_no, deaf_to

    def look(self, image: Tensor) -> Tensor:
        return look_vector(*LOOKS[int(image[0, 4, 4]) % len(LOOKS)])

    def image_embeddings(self, backbone: nn.Module, pictures: Tensor, query_set: str = "reference") -> Tensor:
        return torch.stack([self.look(image) for image in pictures])[:, None]

    def image_vectors(self, backbone: nn.Module, features: Tensor, query_set: str = "reference") -> Tensor:
        return backbone.image_pass(features, query_set)

    def compose(self, backbone: nn.Module, references: Tensor, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.read(self.look(image), text.lower()) for image, text in zip(references, texts)])

    def text_embeddings(self, backbone: nn.Module, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.read(torch.zeros(len(SLOTS)), text) for text in texts])

    def read(self, vector: Tensor, text: str) -> Tensor:
        for statement in re.split(r" and |, ", text):
            for word in re.findall("|".join(SLOTS), statement):
                kind = COLOURS if word in COLOURS else PATTERNS
                if self.deaf_to in f" {statement}":
                    continue
                for other in kind:
                    vector[SLOTS.index(other)] = 0.0
                vector[SLOTS.index(word)] = -1.0 if self.hears_no and re.search(r"\b(not|no|without)\b", statement) else 1.0
        return vector


class Eye(nn.Module):
    """Hands pictures through."""

    image_size = 8

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures


class Tower(nn.Module):
    """Passes pictures through as features, and their looks as query outputs."""

    def warn_if_cut(self, texts: list[str]) -> None:
        """Reads all of them."""

    def reading_of(self, text: str) -> Reading:
        """Every word is known."""
        return Reading(True, (), ())

    def __init__(self, head: Reader) -> None:
        super().__init__()
        self.vision = Eye()
        self.head = [head]

    def image_features(self, pictures: Tensor) -> Tensor:
        return pictures

    def image_pass(self, features: Tensor, query_set: str = "reference") -> Tensor:
        return self.head[0].image_embeddings(self, features)


def make_model(**settings: Any) -> Any:
    """What the evaluator and the functions of inference need of a UniFashionModule."""
    model: Any = nn.Module()
    model.retrieval_head = Reader(**settings)
    model.caption_head = model.diffusion_head = None
    model.backbone = Tower(model.retrieval_head)
    model.device = torch.device("cpu")
    return model.eval()


def gallery() -> GalleryBatch:
    n = len(LOOKS)
    return GalleryBatch(
        keys=[f"g{i:02d}" for i in range(n)],
        images=torch.stack([picture(i) for i in range(n)]),
        categories=["dress"] * n,
        captions=[""] * n,
        in_union=[True] * n,
        dataset="fashioniq/val",
    )


def change(i: int, words: str) -> tuple[int, str]:
    """From look i to another colour and pattern, and a text that says so."""
    target = (i + 5) % len(LOOKS)
    colour, pattern = LOOKS[target]
    return target, words.format(colour=colour, pattern=pattern)


def queries(words: str = "Is {colour} and has {pattern} fabric", n: int = 20) -> QueryBatch:
    changes = [change(i, words) for i in range(n)]
    return QueryBatch(
        keys=[f"q{i:02d}" for i in range(n)],
        references=torch.stack([picture(i) for i in range(n)]),
        reference_ids=[f"g{i:02d}" for i in range(n)],
        target_ids=[f"g{t:02d}" for t, _ in changes],
        texts=[text for _, text in changes],
        categories=["dress"] * n,
        pixels=None,
        dataset="fashioniq/val",
    )


def views(n: int = 12) -> PairBatch:
    """Three views each of a few products."""
    texts = [f"a {COLOURS[i // 3]} dress number {i // 3}" for i in range(n)]
    return pair_batch(
        n,
        keys=[f"r{i:02d}" for i in range(n)],
        images=images(n),
        texts=texts,
        captions=[""] * n,
        styles=["fashiongen"] * n,
        products=torch.arange(n) // 3,
        categories=["dress"] * n,
        subcategories=["dress"] * n,
        pixels=None,
        dataset="fashiongen/validation",
    )


def pieces(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(batch), size):
        rows = slice(start, start + size)
        yield type(batch)(**{k: v[rows] if isinstance(v, list | Tensor) else v for k, v in vars(batch).items()})  # type: ignore[arg-type]
