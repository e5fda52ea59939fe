"""Evaluation batches, a model with real embeddings and small stand-ins for the generating heads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from small import images, pair_batch, small_backbone
from torch import Tensor, nn

from unifashion_pl.data.samples import Batch, GalleryBatch, PairBatch, QueryBatch
from unifashion_pl.evaluation import Evaluator, Stage
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule

WORDS = ["red", "blue", "black", "green"]


class Captioner(nn.Module):
    """Says the same of every picture."""

    styles = {"fashiongen": "", "fashioniq": ""}

    def generate(self, queries: Tensor, styles: list[str], **_: object) -> list[str]:
        return ["A red dress with long sleeves." for _ in styles]


class Painter(nn.Module):
    """Noise from the seed."""

    size = (16, 16)

    def generate(self, queries: Tensor | None, prompts: list[str], *, seeds: list[int], **_: object) -> Tensor:
        return torch.cat([images(1, 16, seed) for seed in seeds])


def make_model() -> UniFashionModule:
    torch.manual_seed(0)
    model = UniFashionModule(small_backbone(), RetrievalModule(hidden_size=32, embed_dim=8))
    model.caption_head, model.diffusion_head = Captioner(), Painter()  # type: ignore[assignment]
    return model.eval()


def pairs(n: int = 12) -> PairBatch:
    texts = [f"a {WORDS[i // 2 % 4]} dress number {i // 2}" for i in range(n)]
    return pair_batch(
        n,
        keys=[f"r{i:02d}" for i in range(n)],
        texts=texts,
        captions=texts,
        styles=["fashiongen"] * n,
        products=torch.arange(n) // 2,
        categories=["dress"] * n,
        subcategories=["dress"] * n,
        pixels=images(n, 16, 1),
        dataset="fashiongen/validation",
    )


def gallery(n: int = 10) -> GalleryBatch:
    cats = ["dress" if i % 2 else "shirt" for i in range(n)]
    return GalleryBatch(
        keys=[f"g{i}" for i in range(n)],
        images=images(n),
        categories=cats,
        captions=[""] * n,
        in_union=[i < 8 for i in range(n)],
        dataset="fashioniq/val",
    )


def queries() -> QueryBatch:
    return QueryBatch(
        keys=[f"q{i}" for i in range(4)],
        references=images(10)[:4],
        reference_ids=[f"g{i}" for i in range(4)],
        target_ids=[f"g{i + 4}" for i in range(4)],
        texts=[f"is {w}" for w in WORDS],
        categories=["shirt", "dress"] * 2,
        pixels=images(4, 16, 2),
        dataset="fashioniq/val",
    )


def split(batch: Batch, size: int) -> list[Batch]:
    def cut(value: object, rows: slice) -> object:
        return value[rows] if isinstance(value, list | Tensor) else value

    return [
        type(batch)(**{k: cut(v, slice(i, i + size)) for k, v in vars(batch).items()})  # type: ignore[arg-type]
        for i in range(0, len(batch), size)
    ]


SMALL: dict[str, Any] = {"composed_ks": (1, 2), "pair_ks": (1, 5), "max_captions": 4, "max_images": 2, "trec": 50}


def evaluate(
    batches: Iterable[Batch], out: Path | None, stage: Stage = "test", settings: dict[str, Any] = SMALL, **more: Any
) -> dict[str, float]:
    evaluator = Evaluator(**settings, shown=3, **more)
    evaluator.start(stage)
    model = make_model()
    for batch in batches:
        evaluator.update(model, batch)
    return evaluator.finish(out)


def everything() -> list[Batch]:
    return [pairs(), gallery(), queries()]
