"""Text <-> image retrieval over pair batches: recall under the FashionGen protocols, and result lists to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unifashion_pl.data.samples import PairBatch
from unifashion_pl.evaluation.collect import Chosen, Line, Outcome, chance_recall, fingerprint, thumbnail
from unifashion_pl.metrics.candidates import Catalogue
from unifashion_pl.metrics.fashiongen import FashionGenRecall
from unifashion_pl.metrics.recall import exact_fp32, token_scores
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.metrics.tables import Rows, Team, merge

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule


class PairEvaluation:
    """One dataset's text <-> image retrieval.

    Args:
        dataset: as the batches carry it.
        protocols: of :class:`FashionGenRecall`; the first one gives the headline names.
        ks, n_queries, draws, seed: passed on to it.
        shown: queries per direction with result lists; 0 in validation, where also no thumbnails are kept.
        top_k: length of those lists.
    """

    def __init__(
        self,
        dataset: str,
        protocols: Sequence[str],
        ks: Sequence[int],
        n_queries: int,
        draws: int,
        seed: int,
        shown: int,
        top_k: int,
    ) -> None:
        self.dataset = dataset
        self.metric = FashionGenRecall(tuple(protocols), ks=ks, n_queries=n_queries, draws=draws, seed=seed)
        self.shown, self.top_k = shown, top_k
        self.texts: Chosen[tuple[str, Tensor]] = Chosen(shown, seed)
        self.images: Chosen[tuple[str, Tensor]] = Chosen(shown, seed)
        self.rows: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self.thumbnails: dict[str, bytes] = {}

    def update(self, model: UniFashionModule, batch: PairBatch) -> None:
        """Embed a batch and keep what ranking and showing need."""
        assert model.retrieval_head is not None
        products = [str(int(p)) for p in batch.products]
        tokens = model.retrieval_head.image_embeddings(model.backbone, batch.images).float()
        vectors = model.retrieval_head.text_embeddings(model.backbone, batch.texts).float()
        self.metric.update_images(batch.keys, products, batch.categories, batch.subcategories, tokens)
        self.metric.update_texts(products, vectors, batch.texts, batch.keys)
        self.rows.update(zip(batch.keys, batch.texts))
        if not self.shown:
            return
        pictures = batch.images.cpu()
        for i, (key, product) in enumerate(zip(batch.keys, products)):
            self.words.setdefault(product, batch.texts[i])
            self.thumbnails[key] = thumbnail(pictures[i])
            if self.texts.wants(product, key):
                self.texts.add(product, key, (batch.texts[i], vectors[i].cpu()))
            if self.images.wants(key, key):
                self.images.add(key, key, (product, tokens[i].cpu()))

    def finish(self, team: Team, full: bool, whole: Catalogue | None = None) -> Outcome:
        """Metrics on every rank; with ``full`` also records, prediction lines and the list of thumbnails they need.

        Args:
            whole: all pairs of the dataset, where only a part of them was seen.
        """
        outcome = Outcome(self.dataset, values=self._values(self.metric.compute()), thumbnails=self.thumbnails)
        if not full or not outcome.values:
            return outcome
        rows = {k: v for part in team.objects(self.rows) for k, v in part.items()}
        ranked = self.metric.per_query()
        records = [*self.metric.records(data_hash=fingerprint(rows)), *self._chance(ranked)]
        outcome.records = records if whole is None else expecting(records, self.metric.queries_of(whole))
        shown = self._result_lists(team, ranked)
        outcome.lines["retrieval"] = [{"dataset": self.dataset, "shown": False, **line} for line in ranked] + shown
        outcome.needed = {key for line in shown if line["direction"] == "t2i" for key, _ in line["top"]}
        outcome.needed |= {line["key"] for line in shown} | {line["target_shown"] for line in shown if line.get("target_shown")}
        return outcome

    def _values(self, computed: dict[str, float]) -> dict[str, float]:
        """Headline protocol without its name, the others with theirs; only recalls and means."""
        short = self.dataset.partition("/")[0]
        values = {}
        for name, value in computed.items():
            protocol, _, metric = name.partition("/")
            if "R@" in metric or metric == "mean":
                tag = "" if protocol == self.metric.protocols[0] else protocol.removeprefix("fashiongen_") + "/"
                values[f"{short}/{tag}{metric}"] = value
        return values

    def _chance(self, ranked: Sequence[Line]) -> list[ResultRecord]:
        """Chance level of every recall, from each query's own number of candidates and of right answers."""
        records = []
        for protocol, under in self.metric.under.items():
            lines = [line for line in ranked if line["protocol"] == protocol]
            views = Counter(line["product"] for line in lines if line["direction"] == "i2t")
            levels: dict[str, tuple[float, int]] = {}
            for direction in ("i2t", "t2i"):
                own = [line for line in lines if line["direction"] == direction]
                many = protocol == "fashiongen_full" and direction == "t2i"
                for k in self.metric.ks:
                    each = [chance_recall(q["candidates"], views[q["product"]] if many else 1, k) for q in own]
                    if each:
                        levels[f"{direction}/R@{k}"] = (sum(each) / len(each), len(each))
            if levels:
                levels["mean"] = (sum(v for v, _ in levels.values()) / len(levels), len(lines))
            text = str(replace(under, chance=True))
            records += [ResultRecord(m, v, "percent", n, text, implementation="hypergeometric") for m, (v, n) in levels.items()]
        return records

    def _result_lists(self, team: Team, ranked: Sequence[Line]) -> list[Line]:
        """Best images for the chosen texts and best texts for the chosen images, over all ranks, with ranks in the full set."""
        texts, images = self.texts.everywhere(team), self.images.everywhere(team)
        pictures, words = merge(self.metric.images), merge(self.metric.texts)  # type: ignore[arg-type]
        every = {p: w for part in team.objects(self.words) for p, w in part.items()}
        views: dict[str, list[str]] = {}
        for part in team.objects(list(zip(pictures.ids, pictures.facts.get("product", [])))):
            for key, product in part:
                views.setdefault(product, []).append(str(key))
        lines = []
        found = _best_images(pictures, [v for _, (_, v) in texts.values()])
        for (product, (_, (text, _))), top in zip(texts.items(), _merge_top(team, found)):
            line = self._line("t2i", product, top, set(views[product]), len({k for k, _ in top}))
            lines.append({**line, "text": text})
        answers = _best_texts(words, [t for _, (_, t) in images.values()])
        for (key, (_, (product, _))), top in zip(images.items(), _merge_top(team, answers)):
            line = self._line("i2t", key, top, {product}, len(every))
            lines.append({**line, "texts": {p: every[p] for p, _ in line["top"]}})
        return lines

    def _line(self, direction: str, key: str, top: list[tuple[str, float]], targets: set[str], candidates: int) -> Line:
        places = [i for i, (name, _) in enumerate(top) if name in targets]
        best = max((score for name, score in top if name in targets), default=float("nan"))
        better = sum(score > best for name, score in top if name not in targets)
        ties = sum(score == best for name, score in top if name not in targets)
        return {
            "dataset": self.dataset,
            "shown": True,
            "direction": direction,
            "key": key,
            "targets": sorted(targets),
            "target_shown": top[places[0]][0] if places and direction == "t2i" else None,
            "rank": better + 1,
            "ties": ties,
            "candidates": candidates,
            "top": [[name, round(score, 6)] for name, score in top[: self.top_k]],
        }


def expecting(records: Sequence[ResultRecord], queries: Mapping[str, Mapping[str, int]]) -> list[ResultRecord]:
    """Records with the number of queries that the whole data would be asked: protocol -> direction -> queries."""
    out = []
    for record in records:
        counts = queries[record.under.family]
        direction = record.metric.partition("/")[0]
        out.append(replace(record, n_expected=counts.get(direction, sum(counts.values()))))
    return out


def _best_images(pictures: Rows, vectors: list[Tensor]) -> list[list[tuple[str, float]]]:
    """All scores of this rank's images for each text vector."""
    if not vectors or not len(pictures):
        return [[] for _ in vectors]
    with exact_fp32(torch.device("cpu")):
        scores = token_scores(torch.stack(vectors), pictures.tensors["tokens"])
    return [list(zip(map(str, pictures.ids), row.tolist())) for row in scores]


def _best_texts(words: Rows, tokens: list[Tensor]) -> list[list[tuple[str, float]]]:
    """All scores of this rank's texts for each image's tokens (Q, E), one per product."""
    if not tokens or not len(words):
        return [[] for _ in tokens]
    with exact_fp32(torch.device("cpu")):
        scores = token_scores(words.tensors["embeddings"], torch.stack(tokens)).T
    named: list[tuple[str, str]] = list(words.ids)  # type: ignore[arg-type]
    return [[(product, score) for (product, _), score in zip(named, row.tolist())] for row in scores]


def _merge_top(team: Team, lists: list[list[tuple[str, float]]]) -> list[list[tuple[str, float]]]:
    """Per query the (name, score) pairs of all ranks, each name once with its best score, best first."""
    parts = team.objects(lists)
    out = []
    for i in range(len(lists)):
        best: dict[str, float] = {}
        for part in parts:
            for name, score in part[i]:
                best[name] = max(score, best.get(name, score))
        out.append(sorted(best.items(), key=lambda pair: (-pair[1], pair[0])))
    return out
