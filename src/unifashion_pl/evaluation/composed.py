"""Composed retrieval over gallery and query batches, with what either half of the query reaches alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unifashion_pl.data.samples import GalleryBatch, QueryBatch
from unifashion_pl.evaluation.collect import Line, Outcome, chance_recall, fingerprint, order, thumbnail
from unifashion_pl.metrics.fashioniq import FashionIQRecall
from unifashion_pl.metrics.fashioniq_results import averages
from unifashion_pl.metrics.leaks import TextQuery, text_only_floor
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.metrics.tables import Team

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule

HEADLINE = ("original", "ref-kept", "image")
GREY = 128
ABLATIONS = ("text-only", "text-blank", "image-only", "image-similarity")


class ComposedEvaluation:
    """One dataset's composed retrieval.

    With ``ablations`` the same gallery is also ranked by queries that lack one half, so that a table shows what composing adds.
    Each half is asked in two ways, because the fair one is not known beforehand; compare with the stronger:

    * ``text-only``: the modifying text through the text pass, the way captions are embedded;
    * ``text-blank``: the composed query with a uniform grey picture as reference (the text half of the trained path);
    * ``image-only``: the composed query with an empty text (the image half of the trained path);
    * ``image-similarity``: the normalised mean of the reference's own q_T tokens. Without ``ref-removed`` the reference itself
      takes the first rank in the last two.

    Args:
        dataset: as the batches carry it.
        ks: the K of R@K.
        ablations: also rank the halves (three further passes per batch).
        shown: queries with pictures, drawn by the hash of their key; 0 keeps no thumbnails.
        top_k, seed: length of the result lists; of the drawing.
    """

    def __init__(self, dataset: str, ks: Sequence[int], ablations: bool, shown: int, top_k: int, seed: int) -> None:
        self.dataset, self.shown, self.seed = dataset, shown, seed
        self.metric = FashionIQRecall(ks=ks, top_k=top_k)
        names = ABLATIONS if ablations else ()
        self.halves = {name: FashionIQRecall(ks=ks, scores=("image",), score=name, top_k=1) for name in names}
        self.gallery: set[tuple[str, str, bool]] = set()
        self.captions: dict[tuple[str, str], str] = {}
        self.texts: dict[str, str] = {}
        self.thumbnails: dict[str, bytes] = {}

    def update_gallery(self, model: UniFashionModule, batch: GalleryBatch) -> None:
        """Embed gallery images with q_T, and their captions where they have one."""
        assert model.retrieval_head is not None
        tokens = model.retrieval_head.image_embeddings(model.backbone, batch.images, "target").float()
        has = [bool(c) for c in batch.captions]
        captions = model.retrieval_head.text_embeddings(model.backbone, batch.captions).float() if any(has) else None
        self.metric.update_gallery(batch.keys, batch.categories, tokens, batch.in_union, captions, has)
        self.gallery.update(zip(batch.categories, batch.keys, batch.in_union))
        for category, key, text in zip(batch.categories, batch.keys, batch.captions):
            if text:
                self.captions[category, key] = text
        self._keep(batch.keys, batch.images)

    def update_queries(self, model: UniFashionModule, batch: QueryBatch) -> None:
        """Embed composed queries, and their halves."""
        assert model.retrieval_head is not None
        self._rank(self.metric, batch, model.retrieval_head.compose(model.backbone, batch.references, batch.texts))
        for name, metric in self.halves.items():
            self._rank(metric, batch, half_query(model, batch, name))
        self.texts.update(zip(batch.keys, batch.texts))
        self._keep(batch.reference_ids, batch.references)

    @staticmethod
    def _rank(metric: FashionIQRecall, batch: QueryBatch, vectors: Tensor) -> None:
        metric.update_queries(batch.keys, batch.categories, batch.reference_ids, batch.target_ids, vectors.float())

    def _keep(self, keys: Sequence[str], images: Tensor) -> None:
        if self.shown:
            for key, image in zip(keys, images.cpu()):
                if key not in self.thumbnails:
                    self.thumbnails[key] = thumbnail(image)

    def finish(self, team: Team, full: bool) -> Outcome:
        """Metrics on every rank; with ``full`` also records, chance levels and prediction lines."""
        outcome = Outcome(self.dataset, thumbnails=self.thumbnails)
        computed = self.metric.compute()
        outcome.values = self._values(computed)
        if not computed:
            return outcome
        if full:
            texts = {k: v for part in team.objects(self.texts) for k, v in part.items()}
            outcome.records = [
                *self.metric.records(data_hash=fingerprint(texts)),
                *self._chance(team),
                *self._floor(team, texts),
            ]
            self._lines(outcome, texts)
        for name, metric in self.halves.items():
            metric.gallery = self.metric.gallery
            numbers = metric.compute()
            outcome.values.update(self._values(numbers, name))
            if full:
                outcome.records += metric.records()
        return outcome

    def _values(self, computed: dict[str, float], half: str = "") -> dict[str, float]:
        """``fashioniq/mean/R@10`` for the headline variant; further scores and halves under their own names."""
        short = self.dataset.partition("/")[0]
        values = {}
        for score, tag in (("image", half), ("caption", "caption-score"), ("both", "both-scores")):
            head = "/".join((*HEADLINE[:2], score)) + "/"
            prefix = f"{short}/{tag}/" if tag else f"{short}/"
            values.update(
                {prefix + n.removeprefix(head): v for n, v in computed.items() if n.startswith(head) and "overlap" not in n}
            )
        return values

    def _chance(self, team: Team) -> list[ResultRecord]:
        """Chance levels with the reference kept, on the whole gallery and on references and targets."""
        members = {m for part in team.objects(self.gallery) for m in part}
        queries = Counter(line["category"] for line in self.metric.per_query())
        records = []
        for gallery in ("original", "union"):
            sizes = Counter(category for category, _, union in members if union or gallery == "original")
            if any(not sizes[c] for c in queries):
                continue
            levels = {f"{c}/R@{k}": chance_recall(sizes[c], 1, k) for c in sorted(queries) for k in self.metric.ks}
            text = self.metric.protocol((gallery, *HEADLINE[1:])) + "/chance"
            for name, value in {**levels, **averages(levels, self.metric.ks)}.items():
                n = queries.get(name.partition("/")[0], sum(queries.values()))
                records.append(ResultRecord(name, value, "percent", n, text, implementation="hypergeometric"))
        return records

    def _floor(self, team: Team, texts: dict[str, str]) -> list[ResultRecord]:
        """What matching words reaches, without images or a model: stands beside every score that reads gallery captions."""
        captions: dict[str, dict[str, str]] = {}
        for part in team.objects(self.captions):
            for (category, key), text in sorted(part.items()):
                captions.setdefault(category, {})[key] = text
        if not captions:
            return []
        queries = [TextQuery(line["category"], line["target"], texts[line["key"]]) for line in self.metric.per_query()]
        counts = Counter(query.category for query in queries)
        protocol = self.metric.protocol(HEADLINE).replace("/image(score=itc", "/caption(score=bm25")
        return [
            ResultRecord(
                name, value, "percent", counts.get(name.partition("/")[0], len(queries)), protocol, implementation="BM25"
            )
            for name, value in text_only_floor(queries, captions, self.metric.ks).items()
        ]

    def _lines(self, outcome: Outcome, texts: dict[str, str]) -> None:
        ranked = self.metric.per_query()
        chosen = set(sorted((line["key"] for line in ranked), key=lambda key: order(self.seed, key))[: self.shown])
        outcome.lines["composed"] = [self._line(line, texts[line["key"]], line["key"] in chosen) for line in ranked]
        for line in outcome.lines["composed"]:
            if line["shown"]:
                outcome.needed |= {line["reference"], line["target"], *(key for key, _ in line["top"])}

    def _line(self, ranked: Line, text: str, shown: bool) -> dict[str, Any]:
        """A line of the metric with what the report shows: rank and list of the image score, ties counted against the query."""
        rank, ties = ranked["ranks"]["/".join(HEADLINE)]
        return {
            **ranked,
            "dataset": self.dataset,
            "text": text,
            "shown": shown,
            "rank": rank + ties,
            "ties": ties,
            "target_shown": ranked["target"],
            "top": ranked["top"]["image"],
            "tops": ranked["top"],
        }


def half_query(model: UniFashionModule, batch: QueryBatch, name: str) -> Tensor:
    """Query vectors (B, E) that know only one half of the composed query; names of :data:`ABLATIONS`."""
    backbone, retrieval = model.backbone, model.retrieval_head
    assert retrieval is not None
    if name == "text-only":
        return retrieval.text_embeddings(backbone, batch.texts)
    if name == "text-blank":
        return retrieval.compose(backbone, torch.full_like(batch.references, GREY), batch.texts)
    if name == "image-only":
        return retrieval.compose(backbone, batch.references, [""] * len(batch))
    if name == "image-similarity":
        return F.normalize(retrieval.image_embeddings(backbone, batch.references, "target").mean(1), dim=-1)
    raise ValueError(f"unknown half {name!r}; known are {', '.join(ABLATIONS)}")
