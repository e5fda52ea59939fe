"""Recipes over image files: samples fail alone, and what a picture's pixels are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.test_shards import train_plan

from unifashion_pl.data.index import ShardIndex
from unifashion_pl.data.plan import BadSample, Item, Made
from unifashion_pl.data.reader import ShardSource
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
