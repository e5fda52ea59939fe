"""The search of an index on a Qdrant server: the server finds candidates among all points, and they are ranked here by the code that ranks every index.

MaxSim of a server is a sum over a query's vectors, so that terms of positive weight among one set are one query whose vectors are scaled by
their weights; terms among several sets, and examples that are not wanted, are added up by the server in a formula over all points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unifashion_pl.arguments import ArgumentError, count, identifiers
from unifashion_pl.gallery.asking import Asking, SearchOptions
from unifashion_pl.gallery.hits import Hit
from unifashion_pl.gallery.items import Value
from unifashion_pl.gallery.qdrant import PAGE, Collection, CollectionFacts, connect, item_of, models, point_id
from unifashion_pl.gallery.qdrant_filter import filter_of
from unifashion_pl.gallery.queries import QueryEncoder
from unifashion_pl.gallery.ranking import CANDIDATES, EACH, Request, Term, rank
from unifashion_pl.gallery.rows import IndexRows
from unifashion_pl.gallery.scan import Corpus
from unifashion_pl.gallery.segments import APPEARANCE, CAPTIONS, SINGLE, Floats, numbered, segment_from
from unifashion_pl.gallery.where import TEXT, Column, clause
from unifashion_pl.names import unknown

if TYPE_CHECKING:
    from unifashion_pl.interface import FashionModel

#: What a server's sums may differ by from ours, for weights that add up to 1.
ROUNDING = 1e-4


class QdrantGallery(Asking):
    """An index on a Qdrant server, searched as any other; ``words`` alone, the lexical part, is not there.

    Args:
        encoder: of the model that made the vectors.

    Raises:
        FileNotFoundError: no such collection. FormatError: it is no index of ours.
        ValueError: it is of another model, or of vectors of another size.
        ConnectionError, RuntimeError: the server does not answer, or refuses.
    """

    def __init__(self, encoder: QueryEncoder, collection: Collection) -> None:
        self.encoder, self.collection, self.facts = encoder, collection, collection.facts()
        self.query_set = self.facts.query_set
        where = f"the collection {collection.name!r} of {collection.where}"
        encoder.require(self.facts.model, where, "push an index of this one under another name")
        found, expected = (self.facts.tokens, self.facts.width), encoder.shape(self.facts.pool)
        if found != expected:
            raise ValueError(
                f"{where} has {found[0]} tokens of {found[1]} numbers, this model's have {expected[0]} of {expected[1]}: "
                "load the model that made it"
            )
        if not self.facts.sets:
            raise ValueError(
                f"{where} is not complete, its first push was interrupted: `unifashion index push` goes on with it"
            )

    @classmethod
    def at(cls, url: str, name: str, model: FashionModel) -> QdrantGallery:
        """A collection by its server's URL and its name; errors as of the class."""
        return cls(QueryEncoder(lambda: model), Collection(connect(url), name, url))

    def __len__(self) -> int:
        return self.collection.count()

    @property
    def _made_by(self) -> str | None:
        return self.facts.appearance

    @property
    def threshold(self) -> None:
        """A server keeps none: `index calibrate` is for an index in a folder."""
        return None

    @property
    def columns(self) -> dict[str, str]:
        """As of any index."""
        return {name: kind for name, (_, kind) in self.facts.columns.items()}

    def facets(self, column: str, where: str | None = None, most: int = 100) -> dict[Value, int]:
        """As of any index; texts are counted by the server, numbers here."""
        found, most = self._column(column), count(most, "most")
        allowed = None if where is None else filter_of(clause(where, self.facts.known()))
        counts: Counter[Any] = Counter()
        if found.kind == TEXT:
            # more than are told, because values that are equally frequent come in no order
            asked: dict[str, Any] = {"facet_filter": allowed, "limit": most + PAGE, "exact": True}
            with self.collection.asking() as client:
                counts.update({hit.value: hit.count for hit in client.facet(self.collection.name, found.place, **asked).hits})
        else:
            values = (_value(point.payload, found) for point in self.collection.scrolled([found.place], allowed))
            counts.update(value for value in values if value is not None)
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most])

    def _column(self, name: str) -> Column:
        known = self.facts.known()
        if name not in known:
            raise ArgumentError(unknown("column", name, known))
        return known[name]

    def _allowed(self, how: SearchOptions) -> models.Filter | None:
        """What may be found; None = all."""
        if how.words:
            raise ArgumentError(
                "words are searched for in an index in the process alone, not on a Qdrant server: leave words out"
            )
        if how.group is not None:
            self._column(how.group)
        gone = [point_id(id) for id in identifiers(how.exclude)]
        must: list[Any] = [] if how.where is None else [filter_of(clause(how.where, self.facts.known()))]
        without: list[Any] = [models.HasIdCondition(has_id=gone)] if gone else []  # type: ignore[arg-type]
        return models.Filter(must=must or None, must_not=without or None) if must or without else None

    def _best(
        self, asked: Sequence[Sequence[Term]], said: Sequence[str], how: SearchOptions, allowed: Any, most: int
    ) -> list[list[Hit]]:
        return [self._ranked(terms, how.group, allowed, most) for terms in asked]

    def _require_images(self) -> None:
        """Nothing: no empty index is pushed, and a request to count the points would be one more for each search."""

    def _ranked(self, terms: Sequence[Term], group: str | None, allowed: Any, most: int) -> list[Hit]:
        """Candidates with their vectors, as a small index of their own."""
        points = self.collection.points(self._candidates(terms, group, allowed, most), self.facts.sets)
        if not points:
            return []
        captioned = [CAPTIONS in point.vector for point in points]
        sets = [name for name in self.facts.sets if name != CAPTIONS]
        vectors: dict[str, Floats] = {name: np.array([point.vector[name] for point in points], np.float32) for name in sets}
        if APPEARANCE in vectors:
            vectors[APPEARANCE] = vectors[APPEARANCE][:, None]
        if any(captioned):
            held = [point.vector[CAPTIONS] for point, there in zip(points, captioned) if there]
            vectors[CAPTIONS] = np.array(held, np.float32)[:, None]
        rows = IndexRows()
        rows.add([(0, [item_of(point.payload, self.facts) for point in points], numbered(captioned))])
        return rank(Corpus({0: segment_from(vectors, "fp32")}, rows.live()), rows, [Request(terms, most, None, group)])[0]

    def _candidates(self, terms: Sequence[Term], group: str | None, allowed: Any, most: int) -> list[str]:
        """Points among which the best are, by the server's sums, and all that come near the last of them."""
        near = ROUNDING * max(1.0, sum(abs(term.weight) for term in terms))
        column = None if group is None else self._column(group)
        number = max(CANDIDATES, EACH * most)
        while True:
            found = self._query(legs_of(terms, self.facts), allowed, number, column)
            best: dict[Any, float] = {}
            for point in found:
                value = None if column is None else _value(point.payload, column)
                best.setdefault(point.payload["id"] if value is None else value, point.score)
                if len(best) == most:
                    break
            least = min(best.values(), default=0.0) - near if len(best) == most else -np.inf
            inside = [str(point.id) for point in found if point.score >= least]
            if len(found) < number or len(inside) < len(found):
                return inside
            number *= 8

    def _query(self, legs: Sequence[Leg], allowed: Any, number: int, column: Column | None) -> list[Any]:
        """Points and their scores, best first, by one pass over all points for each leg."""
        exact = models.SearchParams(exact=True)
        wanted: dict[str, Any] = {"limit": number, "with_payload": ["id", *([column.place] if column is not None else [])]}
        with self.collection.asking() as client:
            if len(legs) == 1 and legs[0].factor == 1 and legs[0].reach is None:
                asked: dict[str, Any] = {"query": legs[0].query, "using": legs[0].within, "query_filter": allowed}
                return client.query_points(self.collection.name, search_params=exact, **asked, **wanted).points
            every = len(self)
            prefetch = [
                models.Prefetch(query=leg.query, using=leg.within, filter=allowed, params=exact, limit=every) for leg in legs
            ]
            parts: list[Any] = [
                models.MultExpression(mult=[leg.factor, leg.counted(f"$score[{i}]")]) for i, leg in enumerate(legs)
            ]
            formula = models.FormulaQuery(formula=models.SumExpression(sum=parts))
            return client.query_points(self.collection.name, prefetch=prefetch, query=formula, **wanted).points


@dataclass(frozen=True)
class Leg:
    """A query of one set of vectors, whose score is added ``factor`` times; ``reach`` as of a term."""

    within: str
    query: list[Any]
    factor: float
    reach: float | None = None

    def counted(self, score: Any) -> Any:
        """What is added of a score, see :meth:`~unifashion_pl.gallery.ranking.Term.counted`."""
        if self.reach is None:
            return score
        apart = models.SumExpression(sum=[score, -1.0])
        return models.ExpExpression(exp=models.MultExpression(mult=[1 / self.reach, apart]))


def legs_of(terms: Sequence[Term], facts: CollectionFacts) -> list[Leg]:
    """Terms as queries: those among one set and of one sign are one, their vectors scaled by their weights.

    A score is the mean over a term's vectors, and a server's MaxSim their sum. A term with a reach, of one vector, stands by itself.
    """
    alone = [term for term in terms if term.reach is not None and term.within in facts.sets]
    legs = [Leg(term.within, term.vectors[0].tolist(), term.weight * term.share, term.reach) for term in alone]
    vectors: dict[tuple[str, float], list[Floats]] = {}
    for term in (term for term in terms if term.reach is None):
        within = "reference" if term.within == "target" and "target" not in facts.sets else term.within
        if within in facts.sets:
            scaled = term.vectors * np.float32(abs(term.weight) * term.share / len(term.vectors))
            vectors.setdefault((within, -1.0 if term.weight < 0 else 1.0), []).append(scaled)
    for (within, sign), parts in vectors.items():
        every = np.concatenate(parts)
        legs.append(Leg(within, (every.sum(0) if within in SINGLE else every).tolist(), sign))
    return legs


def _value(payload: Mapping[str, Any] | None, column: Column) -> Any:
    """A column's value of a point; None without one."""
    found: Any = payload
    for key in column.place.split("."):
        found = (found or {}).get(key)
    return found
