"""Orders of candidates by hashes of their names: the same for any library, order of rows and number of ranks.

A small pool is ordered by SHA-256 of the question and the candidate together, one hash for each pair. A large one would take half a minute a
validation that way (4,000 products of a subcategory, 10,000 queries), so that of it each candidate and each question is hashed once, and
the order is that of a mixture of both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Candidates of the largest pool that is ordered by pairs.
PAIRED = 1000
Words = NDArray[np.uint64]


def smallest(items: Iterable[str], n: int, *parts: object) -> list[str]:
    """The n items with the smallest SHA-256 of ``parts`` followed by the item (joined by ``|``), in that order."""
    listed = list(items)
    if len(listed) <= 1:
        return listed[:n]
    head, sha256 = ("|".join(map(str, parts)) + "|").encode(), hashlib.sha256
    hashed = [(sha256(head + item.encode()).digest(), item) for item in listed]
    return [min(hashed)[1]] if n == 1 else [item for _, item in sorted(hashed)[:n]]


def word(text: str) -> int:
    """The first 64 bits of a text's SHA-256, the highest first."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def mixed(candidates: Words, question: int | Words) -> Words:
    """Keys of candidates for a question, by their :func:`word`: SplitMix64's finaliser of both under exclusive or.

    It is a bijection, so that two candidates have equal keys only if their words are equal.
    """
    x = candidates ^ np.uint64(question)
    other = np.empty_like(x)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x ^= np.right_shift(x, np.uint64(shift), out=other)
        x *= np.uint64(factor)
    return x


class Orders:
    """The orders of one draw in one direction.

    Args:
        parts: what the draw is known by: protocol, seed, draw, direction.
        views: product -> its rows, for :meth:`views`.
    """

    def __init__(self, parts: Sequence[object], views: Mapping[str, Sequence[str]]) -> None:
        self.parts, self._rows = tuple(parts), views
        self._pools: dict[Any, tuple[list[str], Words]] = {}

    def again(self, draw: int, direction: str) -> Orders:
        """Those of another draw over the same pools, whose candidates are not hashed anew."""
        other = copy(self)
        other.parts = (*self.parts[:2], draw, direction)
        return other

    def nearest(
        self, key: Hashable, pool: Callable[[], Iterable[str]], own: set[str], n: int, query: str
    ) -> tuple[list[str], bool]:
        """The first n of a pool in a query's order, without its own, and whether the pool was too large for an order of pairs.

        Args:
            key: names the pool; ``pool`` is called once for each.
        """
        if key not in self._pools:
            names = sorted(pool())
            self._pools[key] = names, _words(names if len(names) > PAIRED else ())
        names, words = self._pools[key]
        if not len(words):
            return smallest((name for name in names if name not in own), n, *self.parts, "neg", query), False
        keys = mixed(words, self._question("neg", query))
        most = min(n + len(own), len(keys))
        first = np.argpartition(keys, most - 1)[:most]
        found = [names[i] for i in first[np.argsort(keys[first])].tolist()]
        return [name for name in found if name not in own][:n], True

    def view(self, product: str, query: str) -> str:
        """The row that a product is shown by where a query asks, by pairs."""
        return smallest(self._rows[product], 1, *self.parts, "view", query, product)[0]

    def views(self, products: Sequence[str], query: str) -> list[str]:
        """A row of each product, by the mixture of the query with each row."""
        rows, words, place, counts = self._views
        where = np.array([place[product] for product in products])
        length = counts[where, 1]
        ends = np.cumsum(length)
        begins = ends - length
        among = np.repeat(counts[where, 0] - begins, length) + np.arange(ends[-1])
        if len(among) > len(products):
            keys = mixed(words[among], self._question("view", query))
            among = among[np.flatnonzero(keys == np.repeat(np.minimum.reduceat(keys, begins), length))]
        return [rows[i] for i in among.tolist()]

    def _question(self, kind: str, query: str) -> int:
        return word("|".join(map(str, (*self.parts, kind, query))))

    @cached_property
    def _views(self) -> tuple[list[str], Words, dict[str, int], NDArray[np.int64]]:
        """All rows, their words, the number of each product, and where its rows begin and how many they are."""
        rows = [row for of in self._rows.values() for row in of]
        counts = np.array([len(of) for of in self._rows.values()])
        place = {product: i for i, product in enumerate(self._rows)}
        return rows, _words(rows), place, np.stack([np.cumsum(counts) - counts, counts], 1)


def _words(names: Iterable[str]) -> Words:
    return np.array([word(name) for name in names], np.uint64)
