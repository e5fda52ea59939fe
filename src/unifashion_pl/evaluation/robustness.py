"""Robustness of retrieval beside the standard numbers: rewritten and denied texts, recall of products.

An option of :class:`~unifashion_pl.evaluation.RetrievalPart` and :class:`~unifashion_pl.evaluation.ComposedPart`, measured in test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from unifashion_pl.data.rewriting import REWRITINGS
from unifashion_pl.data.samples import QueryBatch
from unifashion_pl.evaluation.coverage import Whole
from unifashion_pl.evaluation.part import Outcome
from unifashion_pl.evaluation.sampling import fingerprint
from unifashion_pl.interface import FashionModel
from unifashion_pl.metrics.best import best_lists
from unifashion_pl.metrics.fashiongen import FashionGenRecall, first_texts
from unifashion_pl.metrics.fashioniq import FashionIQRecall
from unifashion_pl.metrics.intervals import bootstrap_interval, wilson_interval
from unifashion_pl.metrics.lines import ProductLine, RewrittenLine, place
from unifashion_pl.metrics.protocol import HEADLINE, Protocol
from unifashion_pl.metrics.recall import Ranks, block_height, exact_fp32, exact_ranks, padded, positive_mask, token_scores
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.metrics.robustness import overlap_at, product_scores
from unifashion_pl.team import Rows, Team, merge, united
from unifashion_pl.trec import Best, Listing

NAME = "robustness"
PRODUCTS = "product-level"
IMPLEMENTATION = "unifashion_pl.metrics.robustness"
BLOCK = 256
#: Rewritings whose numbers go to the logger too; all are in the records.
LOGGED = ("paraphrase-all", "negation")


def share(metric: str, hits: Sequence[bool], protocol: Protocol, **more: Any) -> ResultRecord:
    """A record of how many of n > 0 are true, in percent, with a Wilson interval."""
    n, true = len(hits), sum(hits)
    more |= {"interval": wilson_interval(true, n).scaled(100), "implementation": IMPLEMENTATION}
    return ResultRecord(metric, 100 * true / n, "percent", n, str(protocol), **more)


class Rewritings:
    """What becomes of composed retrieval when the modifying text is rewritten.

    Every rewriting of :data:`~unifashion_pl.data.rewriting.REWRITINGS` is asked of the queries whose text it changes, under the
    headline protocol, all categories pooled. Per rewriting, records say

    * ``changed``: percent of all queries whose text it changes; the further numbers are of these alone;
    * ``R@K``, ``R@K/original``, ``R@K/difference``: recall with the new and with the given text, and their paired difference;
    * ``overlap@k``: percent of the ``top_k`` best that both lists share (all of it where a gallery is not larger);
    * ``rank_change``: mean absolute change of the target's rank, ``rank_falls``: percent of targets that rank behind where they did;
    * ``score_falls``: percent of targets whose score is lower; ``score_change``: its mean change.

    A paraphrase should leave everything as it is. A denial should make rank and score fall, and more often than paraphrases do:
    other words alone move a score.

    Args:
        dataset: as the batches carry it.
        metric: has the queries and the gallery.
    """

    def __init__(self, dataset: str, metric: FashionIQRecall) -> None:
        self.dataset, self.metric = dataset, metric
        self.rewritten = FashionIQRecall(metric.ks, scores=("image",), top_k=metric.top_k, listed=metric.listed)
        self.words: dict[str, str] = {}

    def update(self, model: FashionModel, batch: QueryBatch) -> None:
        """Embed the rewritings of a batch (one further pass of the Q-Former each; of the vision tower too, where references are pixels)."""
        assert model.retrieval_head is not None
        for rule, rewrite in REWRITINGS.items():
            texts = [rewrite(text) for text in batch.texts]
            rows = [i for i, text in enumerate(texts) if text != batch.texts[i].strip()]
            if not rows:
                continue
            vectors = model.retrieval_head.compose(model.backbone, batch.references[rows], [texts[i] for i in rows])
            keys = [f"{rule}/{batch.keys[i]}" for i in rows]
            asked = batch[rows]
            named = (keys, asked.categories, asked.reference_ids, asked.target_ids, vectors.float())
            self.rewritten.update_queries(*named, right=asked.right or None)
            self.words |= {key: texts[i] for key, i in zip(keys, rows)}

    def add(self, outcome: Outcome, team: Team, texts: Mapping[str, str], base: Protocol) -> None:
        """Add records, lines and logged values; a collective.

        Args:
            texts: key -> text of all queries.
            base: headline protocol.
        """
        lines = self._lines(texts, united(team, self.words))
        outcome.lines += lines
        outcome.add_runs(self.rewritten.runs(), ".rewritten")
        asked = sum((self.metric.expected or {}).values()) or len(texts)
        for rule in REWRITINGS:
            records = self._records(rule, [line for line in lines if line.rule == rule], len(texts), base)
            outcome.records += [record.with_context(data_hash=fingerprint(texts), n_expected=asked) for record in records]
            if rule in LOGGED:
                outcome.log(records, f"{NAME}/{rule}")

    def _lines(self, texts: Mapping[str, str], words: Mapping[str, str]) -> list[RewrittenLine]:
        """One line per rewritten query, by key and rule; a collective."""
        self.rewritten.gallery, self.rewritten.allow_partial = self.metric.gallery, self.metric.allow_partial
        given = {line["key"]: line for line in self.metric.per_query()}
        lines = []
        for after in self.rewritten.per_query():
            rule, _, key = after["key"].partition("/")
            before = given[key]
            (rank, ties), (new_rank, new_ties) = (line["ranks"]["/".join(HEADLINE)] for line in (before, after))
            best, new_best = ([image for image, _ in line["top"]["image"]] for line in (before, after))
            asked = {name: after[name] for name in ("category", "reference", "target")}
            asked |= {"dataset": self.dataset, "rule": rule, "key": key, "text": texts[key], "rewritten": words[after["key"]]}
            found = {"rank": rank, "ties": ties, "score": before["scores"]["image"]}
            found |= {"rewritten_rank": new_rank, "rewritten_ties": new_ties, "rewritten_score": after["scores"]["image"]}
            lines.append(RewrittenLine(**asked, **found, overlap=overlap_at(best, new_best, self.metric.top_k)))
        return sorted(lines, key=lambda line: (line.key, [*REWRITINGS].index(line.rule)))

    def _records(self, rule: str, lines: Sequence[RewrittenLine], total: int, base: Protocol) -> list[ResultRecord]:
        """All numbers of one rewriting; ranks count ties against the query."""
        protocol = replace(base, robustness=rule, details=(("pooled", None), *base.details))
        changed = [True] * len(lines) + [False] * (total - len(lines))
        records = [share("changed", changed, protocol)]
        if not lines:
            return records
        protocol = replace(protocol, details=(("pooled", None), ("queries", "changed"), *base.details))
        clusters = [(line.category, line.reference) for line in lines]
        moves = [line.rewritten_place - place(line) for line in lines]
        gains = [line.rewritten_score - line.score for line in lines]

        def mean(metric: str, values: Sequence[float], unit: str = "raw") -> ResultRecord:
            interval = bootstrap_interval(values, clusters)
            value = sum(values) / len(values)
            n, text = len(values), str(protocol)
            return ResultRecord(metric, value, unit, n, text, interval=interval, implementation=IMPLEMENTATION)

        for k in self.metric.ks:
            new, given = [line.rewritten_place <= k for line in lines], [place(line) <= k for line in lines]
            tied = sum(line.rewritten_ties > 0 for line in lines), sum(line.ties > 0 for line in lines)
            records.append(share(f"R@{k}", new, protocol, ties=tied[0]))
            records.append(share(f"R@{k}/original", given, protocol, ties=tied[1]))
            records.append(mean(f"R@{k}/difference", [100.0 * (a - b) for a, b in zip(new, given)], "percent"))
        overlaps = [100 * line.overlap for line in lines]
        return [
            *records,
            mean(f"overlap@{self.metric.top_k}", overlaps, "percent"),
            mean("rank_change", [float(abs(move)) for move in moves]),
            share("rank_falls", [move > 0 for move in moves], protocol),
            share("score_falls", [gain < 0 for gain in gains], protocol),
            mean("score_change", gains),
        ]


def add_products(
    outcome: Outcome, metric: FashionGenRecall, team: Team, device: torch.device, whole: Whole | None = None
) -> None:
    """How well a text finds its product among products, each standing where its best view stands; a collective.

    ``fashiongen_full`` ranks views, so that the five views of one wrong product push the right one five places down; here they count
    once. An image that looks for a text has nothing to gain: there is one text per product already.

    Args:
        outcome: gets the records, lines and logged values.
        metric: has the views and the texts.
        device: where scores are computed.
        whole: all pairs of the dataset, where only a part of them was seen.
    """
    images = team.own(merge(metric.images))  # type: ignore[arg-type]
    texts = first_texts(team.rows(team.own(merge(metric.texts))))  # type: ignore[arg-type]
    views = sum(team.objects(len(images)))
    ranks, lists = _product_ranks(team, images, texts, device, metric.listed)
    protocol = Protocol("fashiongen_full", robustness=PRODUCTS).adding(views=views, products=len(texts))
    protocol = protocol.adding(text=metric.text, score=metric.score)
    records = recall_records(ranks, metric.ks, protocol, "t2i/")
    products = len(texts) if whole is None else len(whole.catalogue.kind_of)
    outcome.records += [replace(record, n_expected=products) for record in records]
    outcome.log(records, f"{NAME}/{PRODUCTS}")
    keys = [str(product) for product in texts.ids]
    outcome.lines += product_lines(keys, keys, ranks, dataset=outcome.dataset, direction="t2i")
    if lists:
        listings = [Listing(key, best, (key,)) for key, best in zip(keys, lists)]
        outcome.add_runs({"fashiongen_full.t2i": listings}, f".{PRODUCTS}")


def _product_ranks(team: Team, images: Rows, texts: Rows, device: torch.device, listed: int) -> tuple[Ranks, list[Best]]:
    """Ranks of all texts, and lists where asked for; views stay on the rank that saw them, texts go through in blocks."""
    code = {product: i for i, product in enumerate(texts.ids)}
    shown = [code[product] for product in images.facts.get("product", [])]
    height = block_height(len(texts), BLOCK)
    vectors = texts.tensors["embeddings"]
    better, ties, lists, names = [], [], list[Best](), list(map(str, texts.ids))
    for start in range(0, len(texts), height):
        block = vectors[start : start + height]
        best = vectors.new_full((height, len(texts)), float("-inf"))
        if len(images):
            with exact_fp32(device):
                scores = token_scores(padded(block, height), images.tensors["tokens"], device=device)
                best = product_scores(scores, shown, len(texts)).cpu()
        whole, own = team.reduce(best, "max")[: len(block)], list(range(start, start + len(block)))
        ranks = exact_ranks(whole, own)
        if listed:
            lists += best_lists(whole, positive_mask(own, whole.shape, whole.device), names, listed)
        better.append(ranks.better)
        ties.append(ranks.ties)
    return Ranks(torch.cat(better), torch.cat(ties)), lists


def recall_records(ranks: Ranks, ks: Sequence[int], protocol: Protocol, prefix: str = "") -> list[ResultRecord]:
    """R@K with Wilson intervals, ties counted against the query."""
    tied = ranks.tied
    return [share(f"{prefix}R@{k}", ranks.hits(k).bool().tolist(), protocol, ties=tied) for k in ks]


def product_lines(keys: Sequence[str], products: Sequence[str], ranks: Ranks, **facts: Any) -> list[ProductLine]:
    """One line per query; ``facts`` are the same in all of them."""
    places = zip(keys, products, (ranks.better + 1).tolist(), ranks.ties.tolist())
    return [ProductLine(key=key, product=product, rank=rank, ties=ties, **facts) for key, product, rank, ties in places]
