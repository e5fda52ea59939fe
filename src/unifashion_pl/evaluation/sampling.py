"""What the parts of an evaluation share: drawing samples by hash, chance levels, a fingerprint."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from unifashion_pl.team import Team

T = TypeVar("T")


def order(seed: int, key: str) -> str:
    """Sort key of a sample that depends on nothing but its name: the same choice for any batch size, worker or rank."""
    return hashlib.sha256(f"{seed}|{key}".encode()).hexdigest()


class Drawing(Generic[T]):
    """The ``size`` groups with the smallest hash, with one item each: the one of the smallest key.

    Args:
        size: number of groups to keep; None = all.
        seed: of the hash.
    """

    def __init__(self, size: int | None, seed: int = 0) -> None:
        self.size, self.seed = size, seed
        self._items: dict[str, tuple[str, T]] = {}
        self._places: dict[str, str] = {}

    def offer(self, group: str, key: str, make: Callable[[], T]) -> None:
        """Keep what ``make`` gives if the group is among the smallest seen so far, and the key its smallest; else nothing is made."""
        if group in self._items:
            if key < self._items[group][0]:
                self._items[group] = (key, make())
            return
        place = order(self.seed, group)
        if self.size is not None and len(self._items) >= self.size:
            last = max(self._places, key=self._places.__getitem__, default=group)
            if place >= self._places.get(last, ""):
                return
            del self._items[last], self._places[last]
        self._items[group], self._places[group] = (key, make()), place

    def own(self, team: Team) -> dict[str, tuple[str, T]]:
        """``{group: (key, item)}`` of the globally chosen groups whose item this rank provides; a collective."""
        offers = team.objects([(group, key) for group, (key, _) in self._items.items()])
        best: dict[str, tuple[str, int]] = {}
        for rank, offered in enumerate(offers):
            for group, key in offered:
                if group not in best or (key, rank) < best[group]:
                    best[group] = (key, rank)
        groups = sorted(best, key=lambda g: order(self.seed, g))[: self.size]
        return {g: self._items[g] for g in groups if best[g][1] == team.rank}

    def everywhere(self, team: Team) -> dict[str, tuple[str, T]]:
        """The chosen groups of all ranks on every rank, in hash order; a collective that sends the items."""
        parts = team.objects(self.own(team))
        merged = {group: pair for part in parts for group, pair in part.items()}
        return {group: merged[group] for group in sorted(merged, key=lambda g: order(self.seed, g))}


def chance_recall(candidates: int, positives: int, k: int) -> float:
    """Recall@K in percent of a random order: at least one of the positives among the first K.

    >>> chance_recall(100, 1, 10)
    10.0
    """
    if k >= candidates:
        return 100.0
    every = math.comb(candidates, k)
    return 100 * (every - math.comb(candidates - positives, k)) / every


def fingerprint(rows: Mapping[str, str]) -> str:
    """SHA-256 over ids and texts of the evaluated samples (not their pixels), sorted by id."""
    digest = hashlib.sha256()
    for key in sorted(rows):
        digest.update(f"{key}\t{rows[key]}\n".encode())
    return "ids+texts:" + digest.hexdigest()[:16]
