"""Plans of splits."""

from __future__ import annotations

from pathlib import Path

import pytest
from unifashion_pl.datamodules import fashiongen

from unifashion_pl.data.plan import Item, Plan


def train_plan(root: Path) -> Plan:
    return next(p for p in fashiongen.plans(root, shard_size=5) if p.split == "train")


def test_plans_refuse_equal_and_unsafe_keys(fashiongen_root: Path) -> None:
    plan = train_plan(fashiongen_root)
    for items, message in (([plan.items[0]] * 2, "two samples"), ([Item("a.b", "", ())], "characters")):
        with pytest.raises(ValueError, match=message):
            Plan("d", "train", "pairs", items, plan.recipe, ("image",), fashiongen_root)
