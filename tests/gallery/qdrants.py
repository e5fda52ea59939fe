"""An index with columns, views and captions, and Qdrant in the process: qdrant-client's local mode answers as a server does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from galleries import pictures

from unifashion_pl.gallery import Gallery, gallery_of, store
from unifashion_pl.gallery.qdrant import Collection, push
from unifashion_pl.module import UniFashionModule

N = 36
TITLES = ["silk dress", "Silk shirt", "it's a top", "dress", ""]


def shop(model: UniFashionModule, n: int = N, query_set: str = "both", captions: bool = True, **kept: Any) -> Gallery:
    """Views of products three by three, two images alike, columns of which some are empty, some captions."""
    columns = [
        {
            "price": None if i % 7 == 3 else (10 * i + 0.5 if i % 2 else 10 * i),
            "title": TITLES[i % len(TITLES)] or None,
            "list price": i,
            'odd "name".x': f"v{i % 3}",
        }
        for i in range(n)
    ]
    pixels = pictures(n)
    pixels[5] = pixels[2]
    return gallery_of(
        model,
        pixels,
        ids=[f"item {i:02d}" for i in range(n)],
        captions=[f"a {word}" if i % 3 else "" for i, word in enumerate(["red", "blue"] * (n // 2))] if captions else None,
        columns=columns,
        products=[None if i % 12 == 11 else f"p{i // 3}" for i in range(n)],
        query_set=query_set,
        **kept,
    )


def local() -> Any:
    """Qdrant's local mode in memory."""
    qdrant = pytest.importorskip("qdrant_client", reason="the extra qdrant; it is in the extra test")
    return qdrant.QdrantClient(":memory:")


def pushed(gallery: Gallery, folder: Path, collection: Collection, **options: Any) -> Any:
    """Save a gallery and push its folder; local mode's warning that payload indexes do nothing there is not of interest."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Payload indexes have no effect in the local Qdrant")
        return push(store.read(gallery.save(folder)), collection, **options)
