"""Candidate lists of the FashionGen protocols: drawn by hashing, so that they depend on no library, row order or rank.

The order of a draw is the ascending SHA-256 of its parts joined by ``|``. A list is a file (JSON) and its hash is part of the
protocol string of every number computed from it.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from unifashion_pl.files import write_text
from unifashion_pl.reading import FormatError, converted, read_json

SAMPLED = ("fashiongen_100", "fashiongen_101_famevil", "fashiongen_groups100")
PROTOCOLS = (*SAMPLED, "fashiongen_full")
SMALL_POOL = ("fill", "skip", "error")
NEGATIVES = {"fashiongen_100": 99, "fashiongen_101_famevil": 100}
GROUP = 100
Kind = tuple[str, str]


def smallest(items: Iterable[str], n: int, *parts: object) -> list[str]:
    """The n items with the smallest hash of ``parts`` followed by the item, in that order."""
    head = hashlib.sha256(("|".join(map(str, parts)) + "|").encode())

    def key(item: str) -> str:
        state = head.copy()
        state.update(item.encode())
        return state.hexdigest()

    return heapq.nsmallest(n, items, key=key)


def candidate_list(
    pool: Mapping[str, Kind], query: str, n: int, protocol: str, seed: int, draw: int, direction: str, home: Kind | None = None
) -> tuple[list[str], int]:
    """Negatives of a query: same subcategory first, then same category, then the rest.

    Args:
        pool: candidate id -> (category, subcategory); the query's own id, if there, is left out.
        query: id of the query (product id; row id for i2t of ``fashiongen_101_famevil``).
        n: how many; fewer come back if the pool is smaller.
        home: (category, subcategory) of the query; None = that of ``pool[query]``.

    Returns:
        The ids, and how many of them are not of the query's subcategory.
    """
    shelves = _shelves(pool)
    return _negatives(shelves, home or pool[query], {query}, n, (protocol, seed, draw, direction, "neg", query))


def _shelves(pool: Mapping[str, Kind]) -> dict[Kind, list[str]]:
    shelves: dict[Kind, list[str]] = {}
    for item, kind in pool.items():
        shelves.setdefault(kind, []).append(item)
    return shelves


def _negatives(
    shelves: Mapping[Kind, Sequence[str]], home: Kind, own: set[str], n: int, parts: Sequence[object]
) -> tuple[list[str], int]:
    chosen = smallest((i for i in shelves.get(home, ()) if i not in own), n, *parts)
    inside = len(chosen)
    for same_category in (True, False):
        if len(chosen) < n:
            kinds = [k for k in shelves if k != home and (k[0] == home[0]) == same_category]
            others = (i for k in kinds for i in shelves[k] if i not in own)
            chosen += smallest(others, n - len(chosen), *parts)
    return chosen, len(chosen) - inside


@dataclass(frozen=True)
class Catalogue:
    """What is known of the evaluated views: row -> product, product -> (category, subcategory)."""

    product_of: dict[str, str]
    kind_of: dict[str, Kind]

    @classmethod
    def of(cls, views: Iterable[tuple[str, str, str, str]]) -> Catalogue:
        """From row, product, category and subcategory of every view; a product is of the kind of its first."""
        found = cls({}, {})
        for row, product, category, subcategory in views:
            found.product_of[row] = product
            found.kind_of.setdefault(product, (category, subcategory))
        return found

    @cached_property
    def rows_of(self) -> dict[str, list[str]]:
        """Views of each product, in row order."""
        rows: dict[str, list[str]] = {}
        for row, product in self.product_of.items():
            rows.setdefault(product, []).append(row)
        return rows

    @cached_property
    def product_shelves(self) -> dict[Kind, list[str]]:
        """Products of each (category, subcategory)."""
        return _shelves(self.kind_of)

    @cached_property
    def row_shelves(self) -> dict[Kind, list[str]]:
        """Rows of each (category, subcategory)."""
        return {kind: [r for p in products for r in self.rows_of[p]] for kind, products in self.product_shelves.items()}


class Trial(NamedTuple):
    """A small score matrix, rows × products.

    ``i2t``: one row, many products; ``t2i``: many rows, one product; ``both``: a block read in both directions. The positive
    comes first (``both``: on the diagonal).
    """

    draw: int
    direction: str
    rows: tuple[str, ...]
    products: tuple[str, ...]
    filled: int = 0

    def queries(self, direction: str) -> tuple[str, ...]:
        """Rows or products that ask in a direction."""
        asking = self.rows if direction == "i2t" else self.products
        return asking if self.direction in (direction, "both") else ()

    def fault(self) -> str:
        """What the shape of the matrix contradicts; "" if nothing."""
        shapes = {"i2t": len(self.rows) == 1, "t2i": len(self.products) == 1, "both": len(self.rows) == len(self.products)}
        if not shapes.get(self.direction) or not self.rows or not self.products:
            return f"is {self.direction[:20]!r} of {len(self.rows)} rows and {len(self.products)} products"
        return ""


@dataclass(frozen=True)
class CandidateLists:
    """All trials of a protocol.

    Attributes:
        protocol, seed, draws, small_pool: what they were drawn with.
        trials: the candidate lists.
        dropped: products or queries left out, over all draws.
    """

    protocol: str
    seed: int
    draws: int
    small_pool: str
    trials: list[Trial] = field(repr=False)
    dropped: int = 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the lists as compact JSON."""
        return hashlib.sha256(json.dumps(self._plain(), separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()

    def _plain(self) -> dict[str, Any]:
        drawn = {name: getattr(self, name) for name in ("protocol", "seed", "draws", "small_pool", "dropped")}
        return {**drawn, "columns": Trial._fields, "trials": self.trials}

    def save(self, path: str | Path) -> None:
        """Write the lists and their hash as JSON."""
        write_text(path, json.dumps({**self._plain(), "sha256": self.digest}, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> CandidateLists:
        """Read a file of :meth:`save`.

        Raises:
            FileNotFoundError: no such file.
            FormatError: no such lists, by field, or the hash does not fit the content.
        """
        data = read_json(path, dict[str, Any], "a file of candidate lists")
        lists: CandidateLists = converted(data, cls, str(path), "a file of candidate lists")
        for number, trial in enumerate(lists.trials):
            if fault := trial.fault():
                raise FormatError(f"{path} is not a file of candidate lists: trials[{number}] {fault}")
        if lists.digest != data.get("sha256"):
            told = str(data.get("sha256"))[:12]
            raise FormatError(f"{path}: candidate lists do not match their hash {told}; draw them again")
        return lists


def build_candidates(
    catalogue: Catalogue,
    protocol: str = "fashiongen_100",
    n_queries: int = 1000,
    draws: int = 5,
    seed: int = 0,
    small_pool: str = "fill",
    group: int = GROUP,
) -> CandidateLists:
    """Draw the candidate lists of a sampled protocol.

    Args:
        catalogue: the evaluated views.
        protocol: one of ``SAMPLED``.
        n_queries: query products (rows for i2t of ``fashiongen_101_famevil``) per draw and direction.
        small_pool: a subcategory with too few others: ``fill`` from the category, then from the rest (counted); ``skip`` the
            query (counted); ``error``.
        group: block size of ``fashiongen_groups100``.
    """
    if protocol not in SAMPLED or small_pool not in SMALL_POOL:
        raise ValueError(f"no candidate lists for protocol={protocol!r}, small_pool={small_pool!r}")
    if protocol == "fashiongen_groups100":
        trials, dropped = _blocks(catalogue, draws, seed, group)
        return CandidateLists(protocol, seed, draws, small_pool, trials, dropped)
    trials, dropped = [], 0
    for draw in range(draws):
        for direction in ("i2t", "t2i"):
            by_row = protocol == "fashiongen_101_famevil" and direction == "i2t"
            ids = catalogue.product_of if by_row else catalogue.kind_of
            for query in smallest(ids, n_queries, protocol, seed, draw, direction, "query"):
                trial, pool = _trial(catalogue, protocol, seed, draw, direction, query)
                if trial.filled and small_pool == "error":
                    raise ValueError(f"{protocol}: query {query} has only {pool} candidates of its subcategory")
                if trial.filled and small_pool == "skip":
                    dropped += 1
                else:
                    trials.append(trial)
    return CandidateLists(protocol, seed, draws, small_pool, trials, dropped)


def _trial(catalogue: Catalogue, protocol: str, seed: int, draw: int, direction: str, query: str) -> tuple[Trial, int]:
    """One candidate list and the number of its negatives that are of the query's subcategory."""
    parts = (protocol, seed, draw, direction)
    by_row = protocol == "fashiongen_101_famevil"
    product = catalogue.product_of[query] if by_row and direction == "i2t" else query

    def view(of: str) -> str:
        return smallest(catalogue.rows_of[of], 1, *parts, "view", query, of)[0]

    rows_wanted = by_row and direction == "t2i"
    shelves = catalogue.row_shelves if rows_wanted else catalogue.product_shelves
    own = set(catalogue.rows_of[product]) if rows_wanted else {product}
    others, filled = _negatives(shelves, catalogue.kind_of[product], own, NEGATIVES[protocol], (*parts, "neg", query))
    if direction == "i2t":
        shown = query if by_row else view(product)
        trial = Trial(draw, direction, (shown,), (product, *others), filled)
    else:
        shown_others = others if rows_wanted else [view(other) for other in others]
        trial = Trial(draw, direction, (view(product), *shown_others), (product,), filled)
    return trial, len(others) - filled


def _blocks(catalogue: Catalogue, draws: int, seed: int, group: int) -> tuple[list[Trial], int]:
    """Blocks of ``group`` products of one category, one view each; the remainder of every category is dropped."""
    name = "fashiongen_groups100"
    trials, dropped = [], 0
    for draw in range(draws):
        for category in sorted({kind[0] for kind in catalogue.kind_of.values()}):
            members = [p for p, kind in catalogue.kind_of.items() if kind[0] == category]
            order = smallest(members, len(members), name, seed, draw, "order")
            whole = len(order) - len(order) % group
            dropped += len(order) - whole
            for start in range(0, whole, group):
                products = order[start : start + group]
                rows = [smallest(catalogue.rows_of[p], 1, name, seed, draw, "view", p)[0] for p in products]
                trials.append(Trial(draw, "both", tuple(rows), tuple(products)))
    return trials, dropped
