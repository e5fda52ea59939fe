"""FashionGen image-text retrieval under the four protocols in use, all from the same embeddings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.metrics.best import over_ranks, two_way_lists
from unifashion_pl.metrics.candidates import GROUP, NEGATIVES, PROTOCOLS, CandidateLists, Catalogue, build_candidates
from unifashion_pl.metrics.intervals import RESAMPLES
from unifashion_pl.metrics.measures import depth
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.ranked import RankedQuery, RankedTable, mean_of_all
from unifashion_pl.metrics.recall import Ranks, block_height, finite_rows, two_way_ranks
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.metrics.tables import KeyedMetric
from unifashion_pl.metrics.trials import rank_trials, trial_scores
from unifashion_pl.team import Rows, Team
from unifashion_pl.trec import Best, Listing

DIRECTIONS = ("i2t", "t2i")
IMPLEMENTATION = "unifashion_pl.metrics.fashiongen"
Ranked = tuple[list[RankedQuery], Protocol]


class FashionGenRecall(KeyedMetric):
    """Recall@K of image-to-text and text-to-image retrieval (§4.3, Table 1); score = max over query tokens of the cosine (§3.1.1).

    Args:
        protocol: one of ``fashiongen_100`` (own + 99 others of the subcategory, product level), ``fashiongen_101_famevil``
            (own + 100 others, row level), ``fashiongen_groups100`` (blocks of 100 products of a category),
            ``fashiongen_full`` (everything against everything); or several of them.
        ks: the K of R@K.
        n_queries, draws, seed, small_pool, group: see :func:`unifashion_pl.metrics.candidates.build_candidates`.
        candidates: lists to use instead of drawing them, by protocol (from files).
        score, text: parts of the protocol string: how the score is made and the text rule.
        listed: candidates of each list in :meth:`runs`; 0 = there are none.
        measures: further ones of :mod:`unifashion_pl.metrics.measures`, e.g. ``("nDCG@5", "MAP@10", "MRR")``.

    ``compute`` returns ``{"<protocol>/i2t/R@1": percent, ..., "<protocol>/mean": percent, "<protocol>/n": queries}`` and the
    counts ``tied``, ``undecidable`` (another candidate has the same text) and ``filled`` (candidates of another subcategory);
    ``{}`` if no rank has data. Images stay on the rank that saw them.
    """

    def __init__(
        self,
        protocol: str | Sequence[str] = "fashiongen_100",
        ks: Sequence[int] = (1, 5, 10),
        n_queries: int = 1000,
        draws: int = 5,
        seed: int = 0,
        small_pool: str = "fill",
        group: int = GROUP,
        candidates: dict[str, CandidateLists] | None = None,
        score: str = "itc",
        text: str = "name_description",
        listed: int = 0,
        measures: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__("images", "texts", **kwargs)
        self.measures, self.kept = tuple(measures), max(listed, depth(measures))
        self.protocols = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        if unknown := [p for p in self.protocols if p not in PROTOCOLS]:
            raise ValueError(f"unknown protocol {', '.join(unknown)}; expected one of {', '.join(PROTOCOLS)}")
        self.ks, self.score, self.text, self.listed = tuple(ks), score, text, listed
        self.drawn: dict[str, Any] = {"n_queries": n_queries, "draws": draws, "seed": seed}
        self.drawn |= {"small_pool": small_pool, "group": group}
        self.candidates = dict(candidates or {})
        self.lists: dict[str, CandidateLists] = {}
        self.under: dict[str, Protocol] = {}  #: Name of each protocol -> all that there is to say of it, after ``compute``.
        self._tables: dict[str, RankedTable] = {}

    def reset(self) -> None:
        """Forget all rows and results."""
        super().reset()
        self.lists, self.under, self._tables = {}, {}, {}

    update = KeyedMetric._store

    def update_images(
        self,
        row_ids: Sequence[str],
        products: Sequence[str],
        categories: Sequence[str],
        subcategories: Sequence[str],
        tokens: Tensor,
    ) -> None:
        """Views.

        Args:
            row_ids: B unique ids; one that comes twice counts once.
            products, categories, subcategories: B names.
            tokens: (B, Q, E) unit query outputs.
        """
        facts = {"product": list(map(str, products)), "category": categories, "subcategory": subcategories}
        self.update("images", list(map(str, row_ids)), facts, {"tokens": tokens})

    def update_texts(
        self, products: Sequence[str], embeddings: Tensor, texts: Sequence[str], row_ids: Sequence[str] | None = None
    ) -> None:
        """Texts of products.

        Args:
            products: B names.
            embeddings: (B, E) unit text vectors.
            texts: the texts themselves, to find candidates that nothing can tell apart: of equal texts one vector counts.
            row_ids: the rows the texts come from; then a product may be given several times and the text of its first row
                (natural order of ids) counts. Without them every product has one text.
        """
        rows = list(map(str, row_ids)) if row_ids is not None else [""] * len(products)
        self.update("texts", list(zip(map(str, products), rows)), {"text": texts}, {"embeddings": embeddings})

    def compute(self) -> dict[str, float]:
        """All protocols.

        Raises:
            ValueError: on every rank: non-finite embeddings, products without text or image, no query left, all with ids.
        """
        team = self._team()
        images = team.own(team.guarded(lambda: self._local("images")))
        texts = first_texts(team.rows(team.own(team.guarded(lambda: self._local("texts")))))
        facts = team.facts(images)
        if not len(facts) and not len(texts):
            return {}
        team.guarded(lambda: _check(images, texts, facts))
        views = zip(facts.ids, *(facts.facts[name] for name in ("product", "category", "subcategory")))
        catalogue = Catalogue.of(views)
        found: dict[str, float] = {}
        for name in self.protocols:
            measure = self._full if name == "fashiongen_full" else partial(self._sampled, name)
            queries, self.under[name] = measure(team, catalogue, images, texts)
            queries.sort(key=lambda query: (query.draw, query.key))
            lists = self.lists.get(name)
            dropped = {"small pool or incomplete block": lists.dropped} if lists and lists.dropped else {}
            asked: dict[str, Any] = {"joint": True, "dropped": dropped, "measures": self.measures}
            table = RankedTable(queries, self.ks, DIRECTIONS, mean_of_all, "product", **asked)
            counts = {"n": len(queries), "tied": sum(query.ranks[()][1] > 0 for query in queries)}
            counts["undecidable"] = sum(query.facts["undecidable"] for query in queries)
            counts["filled"] = sum(trial.filled for trial in lists.trials) if lists else 0
            numbers = {**table.numbers()[()], **{metric: float(count) for metric, count in counts.items()}}
            found |= {f"{name}/{metric}": value for metric, value in numbers.items()}
            self._tables[name] = table
        return found

    def _sampled(self, name: str, team: Team, catalogue: Catalogue, images: Rows, texts: Rows) -> Ranked:
        lists = team.guarded(lambda: self._lists(name, catalogue))
        scores = team.reduce(trial_scores(lists.trials, images, texts, self._where), "sum")
        wording = dict(zip(texts.ids, texts.facts["text"]))
        queries = team.guarded(lambda: rank_trials(lists.trials, scores, catalogue, wording, self.listed))
        return queries, self._drawn_from(lists, queries)

    def _lists(self, name: str, catalogue: Catalogue) -> CandidateLists:
        lists = self.candidates.get(name)
        if lists is None:
            lists = _drawn(tuple(catalogue.views()), name, **self.drawn)
        if not lists.trials:
            raise ValueError(f"{name}: no query is left of {len(catalogue.kind_of)} products (group={self.drawn['group']})")
        unknown = {r for t in lists.trials for r in t.rows} - set(catalogue.product_of)
        if unknown:
            raise ValueError(f"{name}: candidate list names unknown rows, e.g. {', '.join(sorted(unknown)[:5])}")
        self.lists[name] = lists
        return lists

    def _full(self, team: Team, catalogue: Catalogue, images: Rows, texts: Rows) -> Ranked:
        code = {product: i for i, product in enumerate(texts.ids)}
        own = images.facts.get("product", [])
        n, m = len(catalogue.product_of), len(texts)
        every = (
            images.tensors["tokens"] if len(images) else texts.tensors["embeddings"].new_zeros(0, 1, 1),
            torch.tensor([code[p] for p in own], dtype=torch.int64),
            texts.tensors["embeddings"],
            torch.arange(m),
            (block_height(n, 256), block_height(m, 1024)),
            self._where,
        )
        by_image, by_text = two_way_ranks(*every, team.reduce)
        names = list(map(str, images.ids)), list(map(str, texts.ids))
        lists: dict[str, list[Best]] = {}
        if self.kept:
            lists["i2t"], among = two_way_lists(*every, names, self.kept)
            lists["t2i"] = over_ranks(team.objects(among), self.kept)
        wording = texts.facts["text"]
        copies = Counter(wording)
        same = {product: copies[text] > 1 for product, text in zip(texts.ids, wording)}

        def asked(direction: str, keys: Sequence[Any], products: Sequence[Any], ranks: Ranks) -> list[RankedQuery]:
            places = zip(keys, products, ranks.better.tolist(), ranks.ties.tolist())
            facts = {p: {"candidates": m if direction == "i2t" else n, "undecidable": same[p]} for p in set(products)}
            found = [RankedQuery(k, direction, p, {(): (better, ties)}, facts=facts[p]) for k, p, better, ties in places]
            answers = [(q.cluster,) if direction == "i2t" else tuple(catalogue.rows_of[q.cluster]) for q in found]
            told = zip(found, answers, lists.get(direction, ()))
            return [replace(query, lists={(): best}, right=right) for query, right, best in told] or found

        queries = [q for part in team.objects(asked("i2t", images.ids, own, by_image)) for q in part]
        queries += asked("t2i", texts.ids, texts.ids, by_text)
        return queries, Protocol("fashiongen_full").adding(images=n, texts=m, text=self.text, score=self.score)

    def _drawn_from(self, lists: CandidateLists, queries: list[RankedQuery]) -> Protocol:
        groups = lists.protocol == "fashiongen_groups100"
        size = min(query.facts["candidates"] for query in queries)
        regular = GROUP if groups else NEGATIVES[lists.protocol] + 1
        protocol = Protocol(lists.protocol).adding(pool="category" if groups else "subcategory")
        if size != regular:
            protocol = protocol.adding(candidates=size)
        if lists.small_pool != "fill" and not groups:
            protocol = protocol.adding(small_pool=lists.small_pool)
        if lists.order != "paired":
            protocol = protocol.adding(order=lists.order)
        n = max(Counter((query.stratum, query.draw) for query in queries).values())
        drawn = {"n": n, "draws": lists.draws, "seed": lists.seed}
        return protocol.adding(**drawn, text=self.text, score=self.score, list=lists.digest[:12])

    def queries_of(self, catalogue: Catalogue) -> dict[str, dict[str, int]]:
        """Protocol -> direction -> queries, over all draws, that a catalogue would be asked."""
        counts = {}
        for name in self.protocols:
            if name == "fashiongen_full":
                counts[name] = {"i2t": len(catalogue.product_of), "t2i": len(catalogue.kind_of)}
                continue
            trials = _drawn(tuple(catalogue.views()), name, **self.drawn).trials
            counts[name] = {direction: sum(len(t.queries(direction)) for t in trials) for direction in DIRECTIONS}
        return counts

    def per_query(self) -> list[dict[str, Any]]:
        """One record per query for a prediction file; call after ``compute`` (on all ranks)."""
        self.compute()
        lines = []
        for name, table in self._tables.items():
            for direction, queries in table.strata.items():
                for query in queries:
                    asked = {"protocol": name, "direction": direction, "draw": query.draw, "query": query.key}
                    lines.append({**asked, "product": query.cluster, **query.place(), **query.facts})
        return lines

    def runs(self) -> dict[str, list[Listing]]:
        """``PROTOCOL.DIRECTION`` -> the lists of its queries, each with its own candidates; call after ``compute`` (on all ranks).

        Documents of ``t2i`` are views, in ``fashiongen_full`` with all views of a product as right answers; those of ``i2t`` are products.
        """
        self.compute()
        return {
            f"{name}.{side}": lists for name, table in self._tables.items() for side, lists in table.runs(self.listed).items()
        }

    def records(self, resamples: int = RESAMPLES, **context: Any) -> list[ResultRecord]:
        """All numbers with n, ties, intervals (bootstrap over products) and the spread over draws; ``context``: further fields."""
        self.compute()
        records = []
        for name, table in self._tables.items():
            records += table.records({(): self.under[name]}, IMPLEMENTATION, None, resamples, **context)
        return records


@lru_cache(maxsize=4)
def _drawn(views: tuple[tuple[str, str, str, str], ...], name: str, **how: Any) -> CandidateLists:
    """Lists of a catalogue, drawn once for all validations of a run."""
    return build_candidates(Catalogue.of(views), name, **how)


def natural(text: str) -> list[tuple[int, int | str]]:
    """Sort key that reads digits as numbers: r2 before r10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text) if part]


def first_texts(texts: Rows) -> Rows:
    """One row per product: the text of its first row; ids become product ids, sorted. Equal texts have one vector."""
    first: dict[str, int] = {}
    pairs: list[tuple[str, str]] = list(texts.ids)  # type: ignore[arg-type]
    for i, (product, row) in enumerate(pairs):
        if product not in first or natural(row) < natural(pairs[first[product]][1]):
            first[product] = i
    products = sorted(first)
    chosen = texts.take([first[p] for p in products])
    return one_vector_each(Rows(products, chosen.facts, chosen.tensors))


def one_vector_each(texts: Rows) -> Rows:
    """Equal texts with the vector of the first of them, so that they tie with one another.

    The last bits of a text's vector follow its batch: what it is padded to, and how many stand beside it.
    """
    first: dict[str, int] = {}
    rows = [first.setdefault(text, i) for i, text in enumerate(texts.facts.get("text", ()))]
    return Rows(texts.ids, texts.facts, {name: column[rows] for name, column in texts.tensors.items()})


def _check(images: Rows, texts: Rows, facts: Rows) -> None:
    for rows, name in ((images, "tokens"), (texts, "embeddings")):
        parts = [part.flatten(1) for part in rows.tensors[name].split(1024)] if len(rows) else []
        finite = [ok for part in parts for ok in finite_rows(part).tolist()]
        if bad := [str(i) for i, fine in zip(rows.ids, finite) if not fine]:
            raise ValueError(f"{name} are not finite for {', '.join(bad[:5])}")
    shown: set[str] = set(facts.facts.get("product", []))
    worded = {str(product) for product in texts.ids}
    if shown != worded:
        sides = ((sorted(shown - worded), "no text"), (sorted(worded - shown), "no image"))
        raise ValueError("; ".join(f"{len(p)} products have {what}, e.g. {', '.join(p[:5])}" for p, what in sides if p))
