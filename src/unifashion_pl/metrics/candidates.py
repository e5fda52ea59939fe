"""Candidate lists of the FashionGen protocols: drawn by hashing, so that they depend on no library, row order or rank.

The order of a draw is the ascending SHA-256 of its parts joined by ``|``; that of a pool of more than ``PAIRED`` candidates, which the
protocol string then names (``order=mixed``), mixes hashes of both, see :mod:`unifashion_pl.metrics.orders`. A list is a file (JSON)
and its hash is part of the protocol string of every number computed from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unifashion_pl.files import write_text
from unifashion_pl.metrics.orders import Orders, smallest
from unifashion_pl.reading import FormatError, converted, read_json

SAMPLED = ("fashiongen_100", "fashiongen_101_famevil", "fashiongen_groups100")
PROTOCOLS = (*SAMPLED, "fashiongen_full")
SMALL_POOL = ("fill", "skip", "error")
NEGATIVES = {"fashiongen_100": 99, "fashiongen_101_famevil": 100}
GROUP = 100
Kind = tuple[str, str]


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
    orders = Orders((protocol, seed, draw, direction), {})
    return _negatives(orders, _shelves(pool), home or pool[query], {query}, n, query)[:2]


def _shelves(pool: Mapping[str, Kind]) -> dict[Kind, list[str]]:
    shelves: dict[Kind, list[str]] = {}
    for item, kind in pool.items():
        shelves.setdefault(kind, []).append(item)
    return shelves


def _negatives(
    orders: Orders, shelves: Mapping[Kind, list[str]], home: Kind, own: set[str], n: int, query: str
) -> tuple[list[str], int, bool]:
    """The ids, how many are not of the query's subcategory, and whether a pool was large."""
    level = id(shelves), home  # of rows, or of products
    chosen, large = orders.nearest(level, lambda: shelves.get(home, []), own, n, query)
    inside = len(chosen)
    for same_category in (True, False):
        if len(chosen) < n:

            def others(same: bool = same_category) -> list[str]:
                kinds = [k for k in shelves if k != home and (k[0] == home[0]) == same]
                return [item for kind in kinds for item in shelves[kind]]

            more, wide = orders.nearest((*level, same_category), others, own, n - len(chosen), query)
            chosen, large = [*chosen, *more], large or wide
    return chosen, len(chosen) - inside, large


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

    def views(self) -> Iterator[tuple[str, str, str, str]]:
        """What :meth:`of` takes."""
        return ((row, product, *self.kind_of[product]) for row, product in self.product_of.items())

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
        order: ``mixed`` where a pool was too large for ``paired``.
    """

    protocol: str
    seed: int
    draws: int
    small_pool: str
    trials: list[Trial] = field(repr=False)
    dropped: int = 0
    order: Literal["paired", "mixed"] = "paired"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the lists as compact JSON."""
        return hashlib.sha256(json.dumps(self._plain(), separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()

    def _plain(self) -> dict[str, Any]:
        drawn = {name: getattr(self, name) for name in ("protocol", "seed", "draws", "small_pool", "dropped")}
        drawn |= {"order": self.order} if self.order != "paired" else {}
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
    trials, dropped, mixed = [], 0, False
    first = Orders((protocol, seed, 0, "i2t"), catalogue.rows_of)
    for draw in range(draws):
        for direction in ("i2t", "t2i"):
            by_row = protocol == "fashiongen_101_famevil" and direction == "i2t"
            ids = catalogue.product_of if by_row else catalogue.kind_of
            orders = first.again(draw, direction)
            for query in smallest(ids, n_queries, *orders.parts, "query"):
                trial, pool, large = _trial(catalogue, orders, query)
                if trial.filled and small_pool == "error":
                    raise ValueError(f"{protocol}: query {query} has only {pool} candidates of its subcategory")
                if trial.filled and small_pool == "skip":
                    dropped += 1
                else:
                    trials.append(trial)
                    mixed = mixed or large
    return CandidateLists(protocol, seed, draws, small_pool, trials, dropped, "mixed" if mixed else "paired")


def _trial(catalogue: Catalogue, orders: Orders, query: str) -> tuple[Trial, int, bool]:
    """One candidate list, the number of its negatives that are of the query's subcategory, and whether it is of a large pool."""
    protocol, _, draw, direction = orders.parts
    by_row = protocol == "fashiongen_101_famevil"
    product = catalogue.product_of[query] if by_row and direction == "i2t" else query
    rows_wanted = by_row and direction == "t2i"
    shelves = catalogue.row_shelves if rows_wanted else catalogue.product_shelves
    own = set(catalogue.rows_of[product]) if rows_wanted else {product}
    home = catalogue.kind_of[product]
    others, filled, large = _negatives(orders, shelves, home, own, NEGATIVES[str(protocol)], query)
    if direction == "i2t":
        shown = query if by_row else orders.view(product, query)
        trial = Trial(int(str(draw)), direction, (shown,), (product, *others), filled)
    else:
        if not rows_wanted:
            others = orders.views(others, query) if large else [orders.view(other, query) for other in others]
        trial = Trial(int(str(draw)), str(direction), (orders.view(product, query), *others), (product,), filled)
    return trial, len(others) - filled, large


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
