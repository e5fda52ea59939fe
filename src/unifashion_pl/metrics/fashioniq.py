"""Fashion-IQ composed retrieval: every gallery, reference rule and score of the protocol from one pass over the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.metrics.best import best_lists
from unifashion_pl.metrics.intervals import RESAMPLES
from unifashion_pl.metrics.measures import depth
from unifashion_pl.metrics.protocol import SCORES, Protocol
from unifashion_pl.metrics.ranked import RankedQuery, RankedTable, Variant, averages
from unifashion_pl.metrics.recall import block_height, exact_fp32, exact_ranks, padded, positive_mask, token_scores
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.metrics.tables import KeyedMetric
from unifashion_pl.team import Rows
from unifashion_pl.trec import Listing

GALLERIES = ("original", "union", "targets")
REFERENCES = ("ref-kept", "ref-removed")
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

    def update(self, table: str, ids: Sequence[Any], facts: dict[str, Sequence[Any]], tensors: dict[str, Tensor]) -> None:
        """Append rows; called by :meth:`update_gallery` and :meth:`update_queries`."""
        self._store(table, ids, facts, tensors)

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
    ) -> None:
        """Composed queries.

        Args:
            keys: B unique names; a key that comes twice counts once.
            categories, reference_ids, target_ids: B names each.
            embeddings: (B, E) unit vectors of reference image + text.
            overlap: whether the target also stands in a train split of another category (enables the ``no-overlap`` numbers).
        """
        flags = [bool(o) for o in overlap] if overlap is not None else [False] * len(keys)
        facts = {"category": categories, "reference": reference_ids, "target": target_ids, "overlap": flags}
        self.update("queries", list(keys), facts, {"embeddings": embeddings})

    def compute(self) -> dict[str, float]:
        """All variants of all categories; ``{}`` if no rank has a query.

        Raises:
            ValueError: on every rank, naming ids: target missing from its gallery, non-finite score, incomplete captions
                or split.
        """
        team = self._team()
        self._clear()
        gallery = team.rows(team.own(team.guarded(lambda: self._local("gallery"))))
        queries = team.own(team.guarded(lambda: self._local("queries")))
        self.shelved = Rows(gallery.ids, gallery.facts)
        self.asked = facts = team.facts(queries)
        if not len(facts):
            return {}
        if self.allow_partial:
            queries, facts = (self._present(rows) for rows in (queries, facts))
            if lost := len(self.asked) - len(facts):
                self._dropped["target not in the gallery"] = lost
            if not len(facts):
                raise ValueError("no query has its target in the gallery")
        ranked = team.guarded(lambda: self._rank_all(queries, facts, gallery))
        self._ranked = sorted((q for part in team.objects(ranked) for q in part), key=lambda q: (q.stratum, q.key))
        results = {"n": float(len(self._ranked))}
        for further, table in self._tables():
            for variant, numbers in table.numbers().items():
                results.update({"/".join((*variant, *further, name)): value for name, value in numbers.items()})
        return results

    def _present(self, queries: Rows) -> Rows:
        """The queries whose target is in the gallery."""
        known, pairs = set(self.shelved.ids), zip(*(queries.facts.get(name, []) for name in ("category", "target")))
        return queries.take([i for i, pair in enumerate(pairs) if pair in known])

    def _rank_all(self, queries: Rows, facts: Rows, gallery: Rows) -> list[RankedQuery]:
        for category, n in (self.expected or {}).items():
            seen = facts.facts["category"].count(category)
            if seen > n or (seen < n and not self.allow_partial):
                raise ValueError(f"{category}: {seen} of {n} queries were evaluated; allow_partial=True accepts fewer")
        ranked: list[RankedQuery] = []
        height = block_height(len(facts), 256)
        for category in sorted(set(facts.facts["category"])):
            shelf = self._shelf(category, facts, gallery)
            mine = queries.where(category=category)
            with exact_fp32(self._where):
                for start in range(0, len(mine), height):
                    block = mine.take(range(start, min(start + height, len(mine))))
                    ranked += self._rank_block(block, shelf, height)
        return ranked

    def _shelf(self, category: str, facts: Rows, gallery: Rows) -> _Shelf:
        rows, asked = gallery.where(category=category), facts.where(category=category)
        ids, targets = rows.facts["image"], set(asked.facts["target"])
        if missing := sorted(targets - set(ids)):
            raise ValueError(f"{category}: targets missing from the gallery of {len(ids)} images: {', '.join(missing[:5])}")
        union: list[bool] = rows.facts["in_union"]
        if any(flag is None for flag in union):
            used = targets | set(asked.facts["reference"])
            union = [i in used for i in ids]
        masks = zip(GALLERIES, ([True] * len(ids), union, [i in targets for i in ids]))
        tensors = {name: torch.tensor([mask], device=self._where) for name, mask in masks}
        return _Shelf(ids, rows.tensors["tokens"], self._captions(category, ids, rows), tensors)

    def _captions(self, category: str, ids: list[str], rows: Rows) -> Tensor | None:
        """(G, E) captions of a category, zero where absent; None if there are none or they are not asked for."""
        flags: list[bool] = rows.facts["has_caption"]
        if not any(flags) or self.scores == ("image",):
            return None
        self._captioned[category] = (sum(flags), len(flags))
        if not all(flags) and not self.allow_partial:
            lacking = [i for i, flag in zip(ids, flags) if not flag]
            raise ValueError(
                f"{category}: {len(lacking)} of {len(flags)} gallery images have no caption, e.g. {', '.join(lacking[:5])}; "
                "give all, none, or allow_partial=True (a missing caption then scores 0)"
            )
        return rows.tensors["captions"] * torch.tensor(flags, dtype=torch.float32)[:, None]

    def _rank_block(self, block: Rows, shelf: _Shelf, height: int) -> list[RankedQuery]:
        column = {i: position for position, i in enumerate(shelf.ids)}
        targets = [column[t] for t in block.facts["target"]]
        others = torch.ones(len(block), len(shelf.ids), dtype=torch.bool, device=self._where)
        for i, (target, reference) in enumerate(zip(block.facts["target"], block.facts["reference"])):
            if reference in column and reference != target:
                others[i, column[reference]] = False
        every = self._block_scores(padded(block.tensors["embeddings"], height), shelf)
        scores = {name: values[: len(block)] for name, values in every.items()}
        found = []
        for i, (key, target) in enumerate(zip(block.ids, block.facts["target"])):
            asked = {name: column[i] for name, column in block.facts.items()}
            facts = {"top": {}, "scores": {}, "target": target, "overlap": asked["overlap"]}
            found.append(RankedQuery(str(key), asked["category"], asked["reference"], {}, facts=facts, right=(target,)))
        own = positive_mask(targets, torch.Size((len(block), len(shelf.ids))), self._where)
        for gallery, mask in shelf.masks.items():
            for reference, allowed in zip(REFERENCES, (mask, mask & others)):
                for name, values in scores.items():
                    ranks = exact_ranks(values, targets, allowed, block.ids)
                    for query, better, ties in zip(found, ranks.better.tolist(), ranks.ties.tolist()):
                        query.ranks[gallery, reference, name] = better, ties
                    lists = best_lists(values, own, shelf.ids, self.listed, allowed) if self.listed else ()
                    for query, best in zip(found, lists):
                        query.lists[gallery, reference, name] = best
        for name, values in scores.items():
            reached = values[torch.arange(len(block)), targets].tolist()
            for query, top, score in zip(found, top_lists(values, shelf.ids, self.top_k), reached):
                query.facts["top"][name], query.facts["scores"][name] = top, score
        return found

    def _block_scores(self, embeddings: Tensor, shelf: _Shelf) -> dict[str, Tensor]:
        image = token_scores(embeddings, shelf.tokens, device=self._where)
        if shelf.captions is None:
            return {"image": image} if "image" in self.scores else {}
        caption = embeddings.to(self._where) @ shelf.captions.to(self._where).T
        every = {"image": image, "caption": caption, "both": image + self.caption_weight * caption}
        return {name: every[name] for name in self.scores}

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
        if self.gallery_expected not in (None, len(self.shelved)):
            found = found.adding(gallery=f"{len(self.shelved)}/{self.gallery_expected}")
        have, size = (sum(column) for column in zip((0, 0), *self._captioned.values()))
        return found.adding(captions=f"{have}/{size}") if score != "image" and have < size else found


@dataclass(frozen=True)
class _Shelf:
    """Gallery of one category: ids sorted, tokens (G, Q, E), captions (G, E) or None, masks (1, G) per gallery variant."""

    ids: list[str]
    tokens: Tensor
    captions: Tensor | None
    masks: dict[str, Tensor]


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


def top_lists(scores: Tensor, ids: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
    """The k best (id, score) pairs of every row of ``scores`` (N, G)."""
    best = scores.topk(min(k, scores.shape[1]))
    pairs = zip(best.indices.tolist(), best.values.tolist())
    return [[(ids[i], value) for i, value in zip(columns, values)] for columns, values in pairs]
