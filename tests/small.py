"""Small real parts that the tests of several rooms share, never stand-ins."""

from __future__ import annotations

import torch

from unifashion_pl.backbone import QFormerBackbone, VisionTower
from unifashion_pl.data.samples import PairBatch, TripletBatch

TEXTS = ["a long red dress", "a blue shirt with buttons", "plain black skirt", "green top with stripes"]


def small_backbone(seed: int = 0, **kwargs: object) -> QFormerBackbone:
    torch.manual_seed(seed)
    tower = VisionTower(
        "resnet10t", image_size=32, timm_kwargs={"channels": (8, 8, 16, 16), "stem_width": 8, "output_stride": 8}
    )
    settings: dict[str, object] = {
        "num_queries": 4,
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 2,
        "intermediate_size": 64,
        **kwargs,
    }
    return QFormerBackbone(tower, **settings)  # type: ignore[arg-type]


def images(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def pair_batch(n: int = 4, **changes: object) -> PairBatch:
    fields: dict[str, object] = {
        "keys": [f"k{i}" for i in range(n)],
        "images": images(n),
        "texts": TEXTS[:n],
        "captions": [t.capitalize() + "." for t in TEXTS[:n]],
        "styles": ["fashiongen", "fashion200k", "fashioniq", "fashiongen"][:n],
        "products": torch.arange(n),
        "pixels": images(n, 64, seed=1),
        "product_names": [f"p{i}" for i in range(n)],
        "categories": ["dress"] * n,
        "subcategories": ["dress"] * n,
        "dataset": "fashiongen/train",
        **changes,
    }
    return PairBatch(**fields)  # type: ignore[arg-type]


def triplet_batch(n: int = 4, **changes: object) -> TripletBatch:
    fields: dict[str, object] = {
        "keys": [f"t{i}" for i in range(n)],
        "references": images(n),
        "targets": images(n, seed=2),
        "texts": TEXTS[:n],
        "captions": [t.capitalize() + "." for t in TEXTS[:n]],
        "styles": ["fashioniq"] * n,
        "target_ids": torch.arange(n),
        "pixels": images(n, 64, seed=1),
        "categories": ["dress"] * n,
        "dataset": "fashioniq/train",
        **changes,
    }
    return TripletBatch(**fields)  # type: ignore[arg-type]
