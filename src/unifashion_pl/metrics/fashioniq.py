"""Fashion-IQ composed retrieval: every gallery, reference rule and score of the protocol from one pass over the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from unifashion_pl.metrics.best import over_ranks
from unifashion_pl.metrics.intervals import RESAMPLES
from unifashion_pl.metrics.measures import depth
from unifashion_pl.metrics.protocol import SCORES, Protocol
from unifashion_pl.metrics.ranked import RankedQuery, RankedTable, Variant, averages
from unifashion_pl.metrics.recall import block_height, exact_fp32
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.metrics.shelves import Asked, Shelf, best_of, top_lists
from unifashion_pl.metrics.tables import KeyedMetric
from unifashion_pl.team import Rows, Team
from unifashion_pl.trec import Best, Listing

IMPLEMENTATION = "unifashion_pl.metrics.fashioniq"
FULL_QUERIES = {"dress": 2017, "shirt": 2038, "toptee": 1961}


class FashionIQRecall(KeyedMetric):
    """Recall@K of composed retrieval as evaluated on Fashion-IQ (§4.3, Table 4).

    Args:
        ks: the K of R@K.
        scores: which of ``image`` (max over query tokens), ``caption`` (query against the gallery caption) and ``both``
            (image + caption_weight × caption) to report; the last two only where the gallery has captions.
        caption_weight: weight of the caption score in ``both``.
        expected: queries per category of the whole split (``FULL_QUERIES`` for the published one); another number is an error.
            None = not known, not checked.
        gallery_expected: images of the whole gallery, all categories; the protocol string says when there are fewer.
        allow_partial: accept fewer queries, targets missing from the gallery (dropped, counted) and captions for a part of the
            gallery (a missing one scores 0); the protocol string then says so.
        score, text: parts of the protocol string: how the score is made and the rule that joins the two texts.
        top_k: length of the result lists in :meth:`per_query`.
        listed: candidates of each list in :meth:`runs`, of every variant; 0 = there are none.
        measures: further ones of :mod:`unifashion_pl.metrics.measures`, e.g. ``("nDCG@5", "MAP@10", "MRR")``.

    Galleries: ``original`` (all ids of the split), ``union`` (references and targets), ``targets`` (diagnostic).
    ``ref-removed`` takes the query's reference image out of its candidates. ``mean`` is the unweighted mean of the categories,
    ``Avg`` the mean of the means over ``ks``.

    ``compute`` returns ``{"n": queries, "original/ref-kept/both/dress/R@10": percent, ..., "original/ref-kept/both/Avg": ..}``;
    then ``shelved`` and ``asked`` are ids and facts of the whole gallery and of all queries.
    """

    def __init__(
        self,
        ks: Sequence[int] = (10, 50),
        scores: Sequence[str] = SCORES,
        caption_weight: float = 1.0,
        expected: Mapping[str, int] | None = None,
        allow_partial: bool = False,
        gallery_expected: int | None = None,
        score: str = "itc",
        text: str = "and",
        top_k: int = 10,
        listed: int = 0,
        measures: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__("gallery", "queries", **kwargs)
        depth(measures)
        self.measures = tuple(measures)
        if unknown := set(scores) - set(SCORES):
            raise ValueError(f"unknown scores {sorted(unknown)}; expected some of {', '.join(SCORES)}")
        self.ks, self.scores, self.caption_weight = tuple(ks), tuple(s for s in SCORES if s in scores), caption_weight
        self.expected = dict(expected) if expected is not None else None
        self.allow_partial, self.gallery_expected = allow_partial, gallery_expected
        self.score, self.text, self.top_k, self.listed = score, text, top_k, listed
        self._clear()

    def _clear(self) -> None:
        self._ranked: list[RankedQuery] = []
        self._dropped: dict[str, int] = {}
        self._captioned: dict[str, tuple[int, int]] = {}
        self.shelved, self.asked = Rows(), Rows()

    def reset(self) -> None:
        """Forget all rows and results."""
        super().reset()
        self._clear()

    update = KeyedMetric._store

    def update_gallery(
        self,
        ids: Sequence[str],
        categories: Sequence[str],
        tokens: Tensor,
        in_union: Sequence[bool] | None = None,
        captions: Tensor | None = None,
        has_caption: Sequence[bool] | None = None,
    ) -> None:
        """Gallery images.

        Args:
            ids, categories: B names; an image may stand in several categories.
            tokens: (B, Q, E) unit query outputs of the images.
            in_union: whether the image is a reference or target; None = derived from the queries.
            captions: (B, E) unit text vectors of query-blind gallery captions, or None. Their texts are not seen here: check them
                with :func:`~unifashion_pl.data.captions.check_provenance` and ``check_audits``, as ``ComposedPart`` does.
            has_caption: which rows of ``captions`` are real; None = all.
        """
        n = len(ids)
        flags = [captions is not None] * n if has_caption is None or captions is None else [bool(f) for f in has_caption]
        union: list[bool | None] = [bool(u) for u in in_union] if in_union is not None else [None] * n
        vectors = captions if captions is not None else tokens.new_zeros(n, tokens.shape[-1])
        facts = {"category": categories, "image": ids, "in_union": union, "has_caption": flags}
        self.update("gallery", list(zip(categories, ids)), facts, {"tokens": tokens, "captions": vectors})

    def update_queries(
        self,
        keys: Sequence[str],
        categories: Sequence[str],
        reference_ids: Sequence[str],
        target_ids: Sequence[str],
        embeddings: Tensor,
        overlap: Sequence[bool] | None = None,
        right: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Composed queries.

        Args:
            keys: B unique names; a key that comes twice counts once.
            categories, reference_ids, target_ids: B names each.
            embeddings: (B, E) unit vectors of reference image + text.
            overlap: whether the target also stands in a train split of another category (enables the ``no-overlap`` numbers).
            right: all images that answer each query; the rank is that of the first of them. None = the target alone.
        """
        answers = [(target,) for target in target_ids] if right is None else [tuple(names) for names in right]
        flags = [bool(o) for o in overlap] if overlap is not None else [False] * len(keys)
        facts = {"category": categories, "reference": reference_ids, "target": target_ids, "right": answers, "overlap": flags}
        self.update("queries", list(keys), facts, {"embeddings": embeddings})

    def compute(self) -> dict[str, float]:
        """All variants of all categories; ``{}`` if no rank has a query.

        Raises:
            ValueError: on every rank, naming ids: target missing from its gallery, non-finite score, incomplete captions
                or split.
        """
        team = self._team()
        self._clear()
        gallery = team.own(team.guarded(lambda: self._local("gallery")))
        self.shelved = team.facts(gallery)
        queries = team.rows(team.own(team.guarded(lambda: self._local("queries"))))
        self.asked = Rows(queries.ids, queries.facts)
        if not len(queries):
            return {}
        if self.allow_partial:
            queries = self._present(queries)
            if lost := len(self.asked) - len(queries):
                self._dropped["target not in the gallery"] = lost
            if not len(queries):
                raise ValueError("no query has its target in the gallery")
        self._ranked = self._rank_all(team, queries, gallery)
        results = {"n": float(len(self._ranked))}
        for further, table in self._tables():
            for variant, numbers in table.numbers().items():
                results.update({"/".join((*variant, *further, name)): value for name, value in numbers.items()})
        return results

    def _present(self, queries: Rows) -> Rows:
        """The queries whose target is in the gallery."""
        known, pairs = set(self.shelved.ids), zip(*(queries.facts.get(name, []) for name in ("category", "right")))
        return queries.take(
            [i for i, (category, right) in enumerate(pairs) if all((category, name) in known for name in right)]
        )

    def _rank_all(self, team: Team, queries: Rows, gallery: Rows) -> list[RankedQuery]:
        """All queries, sorted by category and key; every process has them all, and errors are those of all."""
        for category, n in (self.expected or {}).items():
            seen = queries.facts["category"].count(category)
            if seen > n or (seen < n and not self.allow_partial):
                raise ValueError(f"{category}: {seen} of {n} queries were evaluated; allow_partial=True accepts fewer")
        ranked: list[RankedQuery] = []
        height = block_height(len(queries), 256)
        for category in sorted(set(queries.facts["category"])):
            asked = queries.where(category=category)
            shelf = self._shelf(team, category, asked, gallery)
            with exact_fp32(self._where):
                for start in range(0, len(asked), height):
                    block = asked.take(range(start, min(start + height, len(asked))))
                    ranked += self._rank_block(team, block, shelf, height)
        return sorted(ranked, key=lambda query: (query.stratum, query.key))

    def _shelf(self, team: Team, category: str, asked: Rows, gallery: Rows) -> Shelf:
        every = self.shelved.where(category=category)
        ids, targets = every.facts.get("image", []), {name for right in asked.facts["right"] for name in right}
        if missing := sorted(targets - set(ids)):
            raise ValueError(f"{category}: targets missing from the gallery of {len(ids)} images: {', '.join(missing[:5])}")
        union: list[bool] = every.facts["in_union"]
        if any(flag is None for flag in union):
            used = targets | set(asked.facts["reference"])
            union = [i in used for i in ids]
        levels = {i: 0 if i in targets else 1 if inside else 2 for i, inside in zip(ids, union)}
        if outside := {i for i, inside in zip(ids, union) if i in targets and not inside}:
            found = zip(asked.ids, asked.facts["right"])
            named = ", ".join(str(key) for key, right in found if outside & {*right})
            raise ValueError(f"the positive is outside the allowed candidates (missing from the union?) for queries {named}")
        captioned = self._captions(category, ids, every.facts["has_caption"])
        wanted = tuple(name for name in self.scores if captioned or name == "image")
        return Shelf(team, category, levels, gallery, wanted, self.caption_weight, self._where)

    def _captions(self, category: str, ids: list[str], flags: list[bool]) -> bool:
        """Whether a category has captions and they are asked for."""
        if not any(flags) or self.scores == ("image",):
            return False
        self._captioned[category] = (sum(flags), len(flags))
        if not all(flags) and not self.allow_partial:
            lacking = [i for i, flag in zip(ids, flags) if not flag]
            raise ValueError(
                f"{category}: {len(lacking)} of {len(flags)} gallery images have no caption, e.g. {', '.join(lacking[:5])}; "
                "give all, none, or allow_partial=True (a missing caption then scores 0)"
            )
        return True

    def _rank_block(self, team: Team, block: Rows, shelf: Shelf, height: int) -> list[RankedQuery]:
        asked = Asked.of(block)
        scores = shelf.score(asked, height)
        reached = shelf.reached(asked, scores)
        ranks = shelf.ranks(asked, team.reduce(shelf.count(asked, scores, reached), "sum"))
        tops = team.objects({name: top_lists(values, shelf.ids, self.top_k) for name, values in scores.items()})
        kept = self.listed if all(len(right) == 1 for right in asked.right) else max(self.listed, depth(self.measures))
        lists = team.objects(shelf.lists(asked, scores, kept)) if kept else []
        best = {variant: over_ranks([part[variant] for part in lists], kept) for variant in ranks if lists}
        found = []
        for i, (key, right) in enumerate(zip(block.ids, asked.right)):
            told = {name: column[i] for name, column in block.facts.items()}
            facts = {
                "top": {name: best_of([part[name][i] for part in tops], self.top_k) for name in scores},
                "scores": {name: float(values[i]) for name, values in reached.items()},
                "target": told["target"],
                "overlap": told["overlap"],
            }
            places: dict[Variant, tuple[int, int]] = {
                variant: (better[i], ties[i]) for variant, (better, ties) in ranks.items()
            }
            of: dict[Variant, Best] = {variant: every[i] for variant, every in best.items()}
            found.append(RankedQuery(str(key), told["category"], told["reference"], places, 0, facts, of, tuple(right)))
        return found

    def _tables(self) -> list[tuple[tuple[str, ...], RankedTable]]:
        clean = [q for q in self._ranked if not q.facts["overlap"]]
        parts: dict[tuple[str, ...], list[RankedQuery]] = {(): self._ranked}
        if 0 < len(clean) < len(self._ranked):
            parts["no-overlap",] = clean
        tables = []
        for further, queries in parts.items():
            categories = tuple(sorted({q.stratum for q in queries}))
            asked: dict[str, Any] = {"dropped": self._dropped, "measures": self.measures}
            tables.append((further, RankedTable(queries, self.ks, categories, averages, "reference", **asked)))
        return tables

    def per_query(self) -> list[dict[str, Any]]:
        """One record per query for a prediction file, sorted by category and key; call after ``compute`` (on all ranks)."""
        self.compute()
        return [_line(query) for query in self._ranked]

    def runs(self) -> dict[str, list[Listing]]:
        """``CATEGORY.GALLERY.REFERENCE.SCORE`` -> the lists of its queries; call after ``compute`` (on all ranks)."""
        self.compute()
        return self._tables()[0][1].runs(self.listed)

    def records(self, resamples: int = RESAMPLES, **context: Any) -> list[ResultRecord]:
        """All numbers with n, ties and bootstrap intervals (clusters = reference images, within categories); ``context``: further fields."""
        self.compute()
        records = []
        for further, table in self._tables():
            expected = self.expected if not further else None
            protocols = {variant: self.under(variant).beyond(*further) for variant in table.variants}
            records += table.records(protocols, IMPLEMENTATION, expected, resamples, **context)
        return records

    def protocol(self, variant: Variant) -> str:
        """:meth:`under` as text, e.g. ``fashioniq/original/ref-kept/both(w=1,score=itc,text=and)``."""
        return str(self.under(variant))

    def under(self, variant: Variant) -> Protocol:
        """The protocol of a variant; it says which sets are shrunken."""
        gallery, reference, score = variant
        total = sum(self.expected.values()) if self.expected else len(self._ranked) + sum(self._dropped.values())
        part = f"{len(self._ranked)}/{total}" if len(self._ranked) != total else ""
        found = Protocol("fashioniq", gallery=gallery, part=part, reference=reference, score=score)
        if score == "both":
            found = found.adding(w=f"{self.caption_weight:g}")
        found = found.adding(score=self.score, text=self.text)
        if any(len(query.right) > 1 for query in self._ranked):
            found = found.adding(right="any")
        if self.gallery_expected not in (None, len(self.shelved)):
            found = found.adding(gallery=f"{len(self.shelved)}/{self.gallery_expected}")
        have, size = (sum(column) for column in zip((0, 0), *self._captioned.values()))
        return found.adding(captions=f"{have}/{size}") if score != "image" and have < size else found


def _line(query: RankedQuery) -> dict[str, Any]:
    """Line of a prediction file; ``rank`` and ``ties`` are those of the last score in the original gallery, ``scores`` the target's."""
    top: dict[str, list[tuple[str, float]]] = query.facts["top"]
    return {
        "key": query.key,
        "category": query.stratum,
        "reference": query.cluster,
        "target": query.facts["target"],
        "overlap": query.facts["overlap"],
        **query.place(("original", "ref-kept", list(top)[-1])),
        "ranks": {"/".join(variant): list(query.place(variant).values()) for variant in query.ranks},
        "top": {score: [[i, round(value, 6)] for i, value in pairs] for score, pairs in top.items()},
        "scores": query.facts["scores"],
    }
