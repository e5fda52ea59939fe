"""Orders by hashes: what they are is said again in Python's integers, and that they prefer nobody is counted."""

from __future__ import annotations

import hashlib
import random

import numpy as np

from unifashion_pl.metrics.orders import PAIRED, Orders, mixed, smallest, word

PARTS = ("fashiongen_100", 7, 0, "i2t")
NAMES = [f"p{i}" for i in range(PAIRED + 200)]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def key(candidate: str, question: str) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014, Stafford's variant 13) of two words under exclusive or."""
    x = int(sha(candidate)[:16], 16) ^ int(sha(question)[:16], 16)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor) % 2**64
    return x ^ (x >> 31)


def test_a_small_pool_is_in_the_order_of_pairs():
    assert smallest(NAMES, 5, "a", 1) == sorted(NAMES, key=lambda name: sha(f"a|1|{name}"))[:5]
    assert smallest(NAMES, 1, "a", 1) == smallest(NAMES, 5, "a", 1)[:1]
    assert smallest(iter(["x"]), 3, "a") == ["x"]
    assert smallest([], 3, "a") == []


def test_keys_are_splitmix64():
    words = np.array([word(name) for name in NAMES[:50]], np.uint64)
    assert mixed(words, word("q")).tolist() == [key(name, "q") for name in NAMES[:50]]
    assert words.tolist() == [int(sha(name)[:16], 16) for name in NAMES[:50]]  # its argument is left as it is


def test_a_large_pool_is_in_the_order_of_the_mixture_for_any_order_of_rows():
    expected = sorted(set(NAMES) - {"p3", "p4"}, key=lambda name: key(name, "fashiongen_100|7|0|i2t|neg|p3"))[:99]
    for seed in range(2):
        pool = random.Random(seed).sample(NAMES, len(NAMES))
        assert Orders(PARTS, {}).nearest("pool", lambda pool=pool: pool, {"p3", "p4"}, 99, "p3") == (expected, True)
    few = NAMES[:PAIRED]
    pairs = smallest(few[1:], 99, *PARTS, "neg", "p0")
    assert Orders(PARTS, {}).nearest("pool", lambda: few, {"p0"}, 99, "p0") == (pairs, False)


def test_a_pool_is_asked_for_and_hashed_once_for_all_draws(monkeypatch):
    asked = []
    orders = Orders(PARTS, {})
    lists = [
        orders.again(draw, "t2i").nearest("pool", lambda: asked.append(1) or NAMES, set(), 9, "p0")[0] for draw in range(3)
    ]
    assert len(asked) == 1
    assert len({tuple(chosen) for chosen in lists}) == 3
    assert lists[1] == Orders((*PARTS[:2], 1, "t2i"), {}).nearest("pool", lambda: NAMES, set(), 9, "p0")[0]


def test_nobody_is_preferred():
    """Each of 1,200 is expected 10 times in 120 lists of 100, two lists share 8.33: as if drawn by lot."""
    orders = Orders(PARTS, {})
    lists = [set(orders.nearest("pool", lambda: NAMES, set(), 100, f"q{i}")[0]) for i in range(120)]
    counts = np.array([sum(name in chosen for chosen in lists) for name in NAMES])
    statistic = ((counts - 10) ** 2 / (10 * (1 - 100 / 1200))).sum()
    assert abs(statistic - 1200) < 4 * (2 * 1200) ** 0.5
    shared = [len(one & other) for i, one in enumerate(lists) for other in lists[:i]]
    assert abs(np.mean(shared) - 100 * 100 / 1200) < 0.15
    assert max(shared) < 25


def test_views_are_shown_by_the_mixture():
    rows = {f"p{i}": [f"p{i}v{v}" for v in range(1 + i % 4)] for i in range(40)}
    found = Orders(PARTS, rows).views(["p7", "p0", "p39", "p3"], "p1")
    question = "fashiongen_100|7|0|i2t|view|p1"
    assert found == [min(rows[p], key=lambda row: key(row, question)) for p in ("p7", "p0", "p39", "p3")]
    single = Orders(PARTS, {p: of[:1] for p, of in rows.items()})
    assert single.views(["p7", "p0"], "p1") == ["p7v0", "p0v0"]
    assert single.view("p7", "p1") == "p7v0"
    assert Orders(PARTS, rows).view("p7", "p1") == smallest(rows["p7"], 1, *PARTS, "view", "p1", "p7")[0]
