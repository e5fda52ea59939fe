"""Text <-> image retrieval over pair batches: recall under the FashionGen protocols, and result lists to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.data.samples import Batch, PairBatch
from unifashion_pl.data.transforms import thumbnail
from unifashion_pl.evaluation import robustness
from unifashion_pl.evaluation.part import Context, Outcome, Part, Stage
from unifashion_pl.evaluation.sampling import Drawing, chance_recall, fingerprint
from unifashion_pl.interface import FashionModel
from unifashion_pl.learned import Task
from unifashion_pl.metrics.fashiongen import FashionGenRecall, one_vector_each
from unifashion_pl.metrics.lines import ImageToText, ResultList, RetrievalLine, TextToImage
from unifashion_pl.metrics.recall import exact_fp32, token_scores
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.team import Team, merge, united


@dataclass
class RetrievalPart(Part):
    """Recall between texts and images of pairs, under all protocols with intervals in test, under the first with one draw in validation.

    Args:
        protocols: of :class:`~unifashion_pl.metrics.fashiongen.FashionGenRecall`; the first one gives the headline names.
        ks: the K of R@K.
        n_queries, draws: of the sampled protocols.
        robustness: also rank products, each standing where its best view stands (test); see :mod:`unifashion_pl.evaluation.robustness`.
    """

    protocols: Sequence[str] = ("fashiongen_100", "fashiongen_full")
    ks: Sequence[int] = (1, 5, 10)
    n_queries: int = 1000
    draws: int = 5
    robustness: bool = False

    def takes(self, model: FashionModel, batch: Batch, stage: Stage) -> bool:
        """Pairs, if the model can embed them."""
        return isinstance(batch, PairBatch) and model.retrieval_head is not None

    def task_of(self, record: ResultRecord) -> Task:
        return "retrieval"

    def begin(self) -> None:
        protocols, draws = (self.protocols, self.draws) if self.test else (self.protocols[:1], 1)
        seed = self.setting.seed
        listed = self.setting.trec if self.test else 0
        asked: dict[str, Any] = {"ks": self.ks, "n_queries": self.n_queries, "draws": draws, "seed": seed, "listed": listed}
        asked["measures"] = self.setting.measures if self.test else ()
        self.metric = FashionGenRecall(tuple(protocols), **asked)
        self.shown = self.setting.shown if self.test else 0
        self.texts: Drawing[tuple[str, Tensor]] = Drawing(self.shown, seed)
        self.images: Drawing[tuple[str, Tensor]] = Drawing(self.shown, seed)
        self.rows: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self.thumbnails: dict[str, bytes] = {}
        self.device = torch.device("cpu")

    def update(self, model: FashionModel, batch: Batch) -> None:
        """Embed a batch and keep what ranking and showing need."""
        assert isinstance(batch, PairBatch)
        assert model.retrieval_head is not None
        self.device = batch.images.device
        products = [str(int(p)) for p in batch.products]
        features = self.seen.features(model, batch.images, [(self.dataset, key) for key in batch.keys])
        tokens = model.retrieval_head.image_embeddings(model.backbone, features).float()
        vectors = model.retrieval_head.text_embeddings(model.backbone, batch.texts).float()
        self.metric.update_images(batch.keys, products, batch.categories, batch.subcategories, tokens)
        self.metric.update_texts(products, vectors, batch.texts, batch.keys)
        self.rows.update(zip(batch.keys, batch.texts))
        if not self.shown:
            return
        pictures = None if batch.shown is None else batch.shown.cpu()
        for i, (key, product) in enumerate(zip(batch.keys, products)):
            self.words.setdefault(product, batch.texts[i])
            if pictures is not None:
                self.thumbnails[key] = thumbnail(pictures[i])
            self.texts.offer(product, key, lambda i=i: (batch.texts[i], vectors[i].cpu()))  # type: ignore[misc]
            self.images.offer(key, key, lambda i=i: (products[i], tokens[i].cpu()))  # type: ignore[misc]

    def finish(self, context: Context) -> Outcome:
        """Metrics; where they are written also records, chance levels and prediction lines."""
        outcome = Outcome(self.dataset, values=self._values(self.metric.compute()), thumbnails=self.thumbnails)
        if not context.full or not outcome.values:
            return outcome
        team, whole = context.team, context.whole(self.dataset)
        ranked = [RetrievalLine(dataset=self.dataset, **line) for line in self.metric.per_query()]
        records = [*self.metric.records(data_hash=fingerprint(united(team, self.rows))), *self._chance(ranked)]
        outcome.records = records if whole is None else expecting(records, self.metric.queries_of(whole.catalogue))
        shown = self._result_lists(team)
        outcome.lines = [*ranked, *shown]
        outcome.add_runs(self.metric.runs())
        outcome.needed = {key for line in shown if isinstance(line, TextToImage) for key, _ in line.top}
        outcome.needed |= {line.key for line in shown} | {line.target_shown for line in shown if line.target_shown}
        if self.test and self.robustness:
            robustness.add_products(outcome, self.metric, team, self.device, whole)
        return outcome

    def _values(self, computed: dict[str, float]) -> dict[str, float]:
        """Headline protocol without its name, the others with theirs; only recalls and means."""
        short = self.dataset.partition("/")[0]
        values = {}
        for name, value in computed.items():
            protocol, _, metric = name.partition("/")
            if "R@" in metric or metric == "mean" or metric.rpartition("/")[2] in self.metric.measures:
                tag = "" if protocol == self.metric.protocols[0] else protocol.removeprefix("fashiongen_") + "/"
                values[f"{short}/{tag}{metric}"] = value
        return values

    def _chance(self, ranked: Sequence[RetrievalLine]) -> list[ResultRecord]:
        """Chance level of every recall, from each query's own number of candidates and of right answers."""
        records = []
        for protocol, under in self.metric.under.items():
            lines = [line for line in ranked if line.protocol == protocol]
            views = Counter(line.product for line in lines if line.direction == "i2t")
            levels: dict[str, tuple[float, int]] = {}
            for direction in ("i2t", "t2i"):
                own = [line for line in lines if line.direction == direction]
                many = protocol == "fashiongen_full" and direction == "t2i"
                for k in self.metric.ks:
                    each = [chance_recall(q.candidates, views[q.product] if many else 1, k) for q in own]
                    if each:
                        levels[f"{direction}/R@{k}"] = (sum(each) / len(each), len(each))
            if levels:
                levels["mean"] = (sum(v for v, _ in levels.values()) / len(levels), len(lines))
            text = str(replace(under, chance=True))
            records += [ResultRecord(m, v, "percent", n, text, implementation="hypergeometric") for m, (v, n) in levels.items()]
        return records

    def _result_lists(self, team: Team) -> list[ResultList]:
        """Best images for the drawn texts and best texts for the drawn images, over all ranks, with ranks in the full set."""
        texts, images = self.texts.everywhere(team), self.images.everywhere(team)
        pictures, words = merge(self.metric.images), one_vector_each(merge(self.metric.texts))  # type: ignore[arg-type]
        every = united(team, self.words)
        views: dict[str, set[str]] = {}
        for part in team.objects(list(zip(pictures.ids, pictures.facts.get("product", [])))):
            for key, product in part:
                views.setdefault(product, set()).add(str(key))
        lines: list[ResultList] = []
        scores = _scores([vector for _, (_, vector) in texts.values()], pictures.tensors.get("tokens", []))
        for (product, (_, (text, _))), top in zip(texts.items(), best_first(team, list(map(str, pictures.ids)), scores)):
            lines.append(TextToImage(text=text, **self._answers(product, top, views[product], len(top))))
        scores = _scores(words.tensors.get("embeddings", []), [tokens for _, (_, tokens) in images.values()])
        worded = [pair[0] for pair in words.ids]  # type: ignore[index]
        for (key, (_, (product, _))), top in zip(images.items(), best_first(team, worded, scores.T)):
            answer = self._answers(key, top, {product}, len(every))
            lines.append(ImageToText(texts={p: every[p] for p, _ in answer["top"]}, **{**answer, "target_shown": None}))
        return lines

    def _answers(self, key: str, top: Sequence[tuple[str, float]], targets: set[str], candidates: int) -> dict[str, Any]:
        """Fields of a result list."""
        best = max((score for name, score in top if name in targets), default=float("nan"))
        others = [score for name, score in top if name not in targets]
        return {
            "dataset": self.dataset,
            "key": key,
            "targets": sorted(targets),
            "target_shown": next((name for name, _ in top if name in targets), None),
            "rank": sum(score > best for score in others) + 1,
            "ties": sum(score == best for score in others),
            "candidates": candidates,
            "top": [(name, round(score, 6)) for name, score in top[: self.setting.top_k]],
        }


def expecting(records: Sequence[ResultRecord], queries: Mapping[str, Mapping[str, int]]) -> list[ResultRecord]:
    """Records with the number of queries that the whole data would be asked: protocol -> direction -> queries."""
    counts = [(record, queries[record.under.family]) for record in records]
    return [replace(r, n_expected=of.get(r.metric.partition("/")[0], sum(of.values()))) for r, of in counts]


def _scores(vectors: Tensor | list[Tensor], tokens: Tensor | list[Tensor]) -> Tensor:
    """Scores of N text vectors (E,) against G token sets (Q, E) -> (N, G)."""
    if not len(vectors) or not len(tokens):
        return torch.zeros(len(vectors), len(tokens))
    texts, images = (rows if isinstance(rows, Tensor) else torch.stack(rows) for rows in (vectors, tokens))
    with exact_fp32(torch.device("cpu")):
        return token_scores(texts, images)


def best_first(team: Team, names: Sequence[str], scores: Tensor) -> list[list[tuple[str, float]]]:
    """Per query the (name, score) pairs of all ranks, each name once with its best score, best first; a collective.

    Args:
        names: of this rank's candidates; one may come more than once.
        scores: (queries, candidates); the queries are the same on every rank.
    """
    found = []
    for parts in zip(*team.objects([list(zip(names, row)) for row in scores.tolist()])):
        best: dict[str, float] = {}
        for name, score in chain(*parts):
            best[name] = max(score, best.get(name, score))
        found.append(sorted(best.items(), key=lambda pair: (-pair[1], pair[0])))
    return found
