"""Recipes over image files: samples fail alone, and what a picture's pixels are."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.test_shards import train_plan
from PIL import Image

from unifashion_pl.data.decode import decode_picture, stored
from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import BadSample, Item, Made
from unifashion_pl.data.reader import ShardSource
from unifashion_pl.data.recipes import pixel_hash
from unifashion_pl.data.shards import write_shards


class BadFields:
    """A recipe with a field name that tar readers change."""

    def __init__(self, name: str) -> None:
        self.name = name

    def inputs(self, item: Item) -> list[Any]:
        return []

    def make(self, items: Any) -> Any:
        yield from ((item, Made({self.name: b"x", "meta.json": b"{}"}, item.key)) for item in items)


def test_samples_fail_alone(fashiongen_root: Path, tmp_path: Path) -> None:
    """A recipe's BadSample costs its sample, never the shard."""
    plan = train_plan(fashiongen_root)
    recipe = plan.recipe

    class Some(BadFields):
        def make(self, items: Any) -> Any:
            for item, made in recipe.make(items):
                yield item, BadSample(item.key, "image", "truncated") if item.key.endswith("7") else made

    object.__setattr__(plan, "recipe", Some(""))
    index = ShardIndex.load(write_shards(plan, tmp_path, progress=False).parent)
    assert {m["key"] for m in index.missing} == {f"r00000{n}7" for n in range(3)}
    assert index.samples == 33
    source = ShardSource(tmp_path / "pairs-train")
    assert [source.read(n).key for n in range(33)] == source.keys


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_equal_pixels_have_one_hash_however_they_were_decoded(kind: str, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(noise).convert(mode).save(file, kind)
    rgb = Image.open(file).convert("RGB")
    meant = hashlib.sha256(f"{rgb.width}x{rgb.height}".encode() + rgb.tobytes()).hexdigest()[:32]
    _, _, kept = stored(file.getvalue(), decode_picture(file.getvalue()))
    assert pixel_hash(kept.rgb()) == pixel_hash(kept.image) == meant
    assert pixel_hash(noise[::-1]) != meant
