"""Robustness of retrieval beside the standard numbers: rewritten and denied texts, recall of products, searches in several rounds.

The evaluator takes :class:`RobustComposedEvaluation` and :class:`RobustPairEvaluation` in test when ``robustness`` is set.
:func:`multi_round` and :func:`product_recall` are for Python: they need to know more than batches tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unifashion_pl import __version__
from unifashion_pl.data.samples import PairBatch, QueryBatch
from unifashion_pl.evaluation.collect import Line, Outcome, fingerprint, merged, weights_hash
from unifashion_pl.evaluation.composed import HEADLINE, ComposedEvaluation
from unifashion_pl.evaluation.pairs import PairEvaluation
from unifashion_pl.inference import OneImage, compose, encode_image
from unifashion_pl.metrics.fashiongen import first_texts
from unifashion_pl.metrics.fashioniq import top_lists
from unifashion_pl.metrics.intervals import bootstrap_interval, wilson_interval
from unifashion_pl.metrics.recall import Ranks, block_height, exact_fp32, exact_ranks, padded, token_scores
from unifashion_pl.metrics.records import ResultRecord, write_records
from unifashion_pl.metrics.robustness import REWRITINGS, overlap_at, product_ranks, product_scores, success_by_round
from unifashion_pl.metrics.tables import Rows, Team, merge
from unifashion_pl.report.runfolder import write_lines

if TYPE_CHECKING:
    from unifashion_pl.module import UniFashionModule

NAME = "robustness"
IMPLEMENTATION = "unifashion_pl.metrics.robustness"
BLOCK = 256
#: Rewritings whose numbers go to the logger too; all are in the records.
LOGGED = ("paraphrase-all", "negation")
Feedback = Callable[[str, str], str | None]


def share(metric: str, hits: Sequence[bool], protocol: str, **more: Any) -> ResultRecord:
    """A record of how many of n > 0 are true, in percent, with a Wilson interval."""
    n, true = len(hits), sum(hits)
    interval = wilson_interval(true, n).scaled(100)
    return ResultRecord(
        metric, 100 * true / n, "percent", n, protocol, interval=interval, implementation=IMPLEMENTATION, **more
    )


class RobustComposedEvaluation(ComposedEvaluation):
    """Composed retrieval, and what becomes of it when the modifying text is rewritten.

    Every rewriting of :data:`~unifashion_pl.metrics.robustness.REWRITINGS` is asked of the queries whose text it changes, under the
    headline protocol, all categories pooled. Per rewriting, records say

    * ``changed``: percent of all queries whose text it changes; the further numbers are of these alone;
    * ``R@K``, ``R@K/original``, ``R@K/difference``: recall with the new and with the given text, and their paired difference;
    * ``overlap@k``: percent of the ``top_k`` best that both lists share (all of it where a gallery is not larger);
    * ``rank_change``: mean absolute change of the target's rank, ``rank_falls``: percent of targets that rank behind where they did;
    * ``score_falls``: percent of targets whose score is lower; ``score_change``: its mean change.

    A paraphrase should leave everything as it is. A denial should make rank and score fall, and more often than paraphrases do:
    other words alone move a score.

    Args: as of :class:`ComposedEvaluation`.
    """

    device = torch.device("cpu")

    def __init__(self, dataset: str, ks: Sequence[int], ablations: bool, shown: int, top_k: int, seed: int) -> None:
        super().__init__(dataset, ks, ablations, shown, top_k, seed)
        self.rewritten: list[Rows] = []

    def update_queries(self, model: UniFashionModule, batch: QueryBatch) -> None:
        """Embed composed queries, their halves, and their rewritings (one further pass each)."""
        super().update_queries(model, batch)
        assert model.retrieval_head is not None
        self.device = batch.references.device
        for rule, rewrite in REWRITINGS.items():
            texts = [rewrite(text) for text in batch.texts]
            rows = [i for i, text in enumerate(texts) if text != batch.texts[i].strip()]
            if not rows:
                continue
            new = [texts[i] for i in rows]
            vectors = model.retrieval_head.compose(model.backbone, batch.references[rows], new)
            ids = [(rule, batch.keys[i]) for i in rows]
            self.rewritten.append(Rows(ids, {"text": new}, {"embeddings": vectors.float().cpu()}))

    def finish(self, team: Team, full: bool) -> Outcome:
        """See the base class; with ``full`` also records and lines of the rewritings."""
        outcome = super().finish(team, full)
        if not full or not outcome.values:
            return outcome
        gallery = team.rows(team.own(merge(self.metric.gallery)))  # type: ignore[arg-type]
        queries = team.own(merge(self.metric.queries))  # type: ignore[arg-type]
        rewritten = team.own(merge(self.rewritten))
        texts = {k: v for part in team.objects(self.texts) for k, v in part.items()}
        height = block_height(sum(team.objects(len(queries))), BLOCK)
        own = team.guarded(lambda: self._compare(queries, rewritten, gallery, texts, height))
        lines = merged(team, own, "key")
        outcome.lines[NAME] = lines
        base = self.metric.protocol(HEADLINE)
        for rule in REWRITINGS:
            records = self._records(rule, [line for line in lines if line["rule"] == rule], len(texts), base)
            outcome.records += [record.with_context(data_hash=fingerprint(texts)) for record in records]
            short = self.dataset.partition("/")[0]
            if rule in LOGGED:
                outcome.values |= {f"{short}/{NAME}/{rule}/{r.metric}": r.value for r in records if r.value is not None}
        return outcome

    def _compare(self, queries: Rows, rewritten: Rows, gallery: Rows, texts: Mapping[str, str], height: int) -> list[Line]:
        """One line per rewritten query of this rank."""
        asked: dict[str, dict[str, int]] = {rule: {} for rule in REWRITINGS}
        named: list[tuple[str, str]] = list(rewritten.ids)  # type: ignore[arg-type]
        for row, (rule, key) in enumerate(named):
            asked[rule][key] = row
        names: list[tuple[str, str]] = list(gallery.ids)  # type: ignore[arg-type]
        lines = []
        for category in sorted(set(queries.facts.get("category", []))):
            shelf = gallery.take([i for i, (c, _) in enumerate(names) if c == category])
            mine = queries.take([i for i, c in enumerate(queries.facts["category"]) if c == category])
            given = self._ranked(mine, mine.tensors["embeddings"], shelf, height)
            for rule, rows in asked.items():
                places = [i for i, key in enumerate(mine.ids) if key in rows]
                if not places:
                    continue
                new = rewritten.take([rows[str(mine.ids[i])] for i in places])
                found = self._ranked(mine.take(places), new.tensors["embeddings"], shelf, height)
                for text, i, after in zip(new.facts["text"], places, found):
                    key = str(mine.ids[i])
                    facts = {name: mine.facts[name][i] for name in ("category", "reference", "target")}
                    told = {"dataset": self.dataset, "rule": rule, "key": key, "text": texts[key], "rewritten": text}
                    lines.append({**told, **facts, **self._changes(given[i], after)})
        return lines

    def _ranked(self, queries: Rows, vectors: Tensor, shelf: Rows, height: int) -> list[_Place]:
        """Where the targets of these queries stand in their category, in blocks of equal shape."""
        names: list[tuple[str, str]] = list(shelf.ids)  # type: ignore[arg-type]
        ids = [key for _, key in names]
        column = {key: i for i, key in enumerate(ids)}
        places: list[_Place] = []
        for start in range(0, len(queries), height):
            part = slice(start, start + height)
            targets = [column[key] for key in queries.facts["target"][part]]
            with exact_fp32(self.device):
                block = padded(vectors[part], height)
                scores = token_scores(block, shelf.tensors["tokens"], device=self.device)[: len(targets)].cpu()
            ranks = exact_ranks(scores, targets, ids=queries.ids[part])
            tops = [[key for key, _ in top] for top in top_lists(scores, ids, self.metric.top_k)]
            own = scores[torch.arange(len(targets)), torch.tensor(targets)]
            columns = zip(ranks.better.tolist(), ranks.ties.tolist(), own.tolist(), tops)
            places += [_Place(better + ties, ties, score, top) for better, ties, score, top in columns]
        return places

    def _changes(self, before: _Place, after: _Place) -> Line:
        return {
            "rank": before.rank,
            "ties": before.ties,
            "score": before.score,
            "rewritten_rank": after.rank,
            "rewritten_ties": after.ties,
            "rewritten_score": after.score,
            "overlap": overlap_at(before.top, after.top, self.metric.top_k),
        }

    def _records(self, rule: str, lines: Sequence[Line], total: int, base: str) -> list[ResultRecord]:
        """All numbers of one rewriting; ranks count ties against the query."""
        protocol = f"{NAME}/{rule}/{base.replace('(', '(pooled,', 1)}"
        changed = [True] * len(lines) + [False] * (total - len(lines))
        records = [share("changed", changed, protocol)]
        if not lines:
            return records
        protocol = protocol.replace("(pooled,", "(pooled,queries=changed,", 1)
        clusters = [(line["category"], line["reference"]) for line in lines]
        moves = [line["rewritten_rank"] - line["rank"] for line in lines]
        gains = [line["rewritten_score"] - line["score"] for line in lines]

        def mean(metric: str, values: Sequence[float], unit: str = "raw") -> ResultRecord:
            interval = bootstrap_interval(values, clusters)
            value = sum(values) / len(values)
            return ResultRecord(
                metric, value, unit, len(values), protocol, interval=interval, implementation=IMPLEMENTATION, n_expected=total
            )

        for k in self.metric.ks:
            new, given = ([line[name] < k for line in lines] for name in ("rewritten_rank", "rank"))
            for name, hits, ties in ((f"R@{k}", new, "rewritten_ties"), (f"R@{k}/original", given, "ties")):
                tied = sum(line[ties] > 0 for line in lines)
                records.append(share(name, hits, protocol, n_expected=total, ties=tied))
            records.append(mean(f"R@{k}/difference", [100.0 * (a - b) for a, b in zip(new, given)], "percent"))
        overlaps = [100 * line["overlap"] for line in lines]
        return [
            *records,
            mean(f"overlap@{self.metric.top_k}", overlaps, "percent"),
            mean("rank_change", [float(abs(move)) for move in moves]),
            share("rank_falls", [move > 0 for move in moves], protocol, n_expected=total),
            share("score_falls", [gain < 0 for gain in gains], protocol, n_expected=total),
            mean("score_change", gains),
        ]


@dataclass(frozen=True)
class _Place:
    """Where a query's target stands: rank from 0 with ties counted against it, its score, and the ids of the best."""

    rank: int
    ties: int
    score: float
    top: list[str]


class RobustPairEvaluation(PairEvaluation):
    """Text <-> image retrieval, and how well a text finds its product among products, each standing where its best view stands.

    ``fashiongen_full`` ranks views, so that the five views of one wrong product push the right one five places down; here they count
    once. An image that looks for a text has nothing to gain: there is one text per product already.
    """

    device = torch.device("cpu")

    def update(self, model: UniFashionModule, batch: PairBatch) -> None:
        """See the base class."""
        super().update(model, batch)
        self.device = batch.images.device

    def finish(self, team: Team, full: bool) -> Outcome:
        """See the base class; with ``full`` also records and lines of products."""
        outcome = super().finish(team, full)
        if not full or not outcome.values:
            return outcome
        images = team.own(merge(self.metric.images))  # type: ignore[arg-type]
        texts = first_texts(team.rows(team.own(merge(self.metric.texts))))  # type: ignore[arg-type]
        views = sum(team.objects(len(images)))
        ranks = self._product_ranks(team, images, texts)
        details = f"views={views},products={len(texts)},text={self.metric.text},score={self.metric.score}"
        protocol = f"{NAME}/product-level/fashiongen_full({details})"
        records = _recall(ranks, self.metric.ks, protocol, "t2i/")
        outcome.records += records
        short = self.dataset.partition("/")[0]
        outcome.values |= {f"{short}/{NAME}/product-level/{r.metric}": r.value for r in records if r.value is not None}
        keys = [str(product) for product in texts.ids]
        outcome.lines[NAME] = [{"dataset": self.dataset, "direction": "t2i", **x} for x in _product_lines(keys, keys, ranks)]
        return outcome

    def _product_ranks(self, team: Team, images: Rows, texts: Rows) -> Ranks:
        """Ranks of all texts; views stay on the rank that saw them, texts go through in blocks."""
        code = {product: i for i, product in enumerate(texts.ids)}
        shown = [code[product] for product in images.facts.get("product", [])]
        height = block_height(len(texts), BLOCK)
        vectors = texts.tensors["embeddings"]
        better, ties = [], []
        for start in range(0, len(texts), height):
            block = vectors[start : start + height]
            best = vectors.new_full((height, len(texts)), float("-inf"))
            if len(images):
                with exact_fp32(self.device):
                    scores = token_scores(padded(block, height), images.tensors["tokens"], device=self.device)
                    best = product_scores(scores, shown, len(texts)).cpu()
            ranks = exact_ranks(team.reduce(best, "max")[: len(block)], list(range(start, start + len(block))))
            better.append(ranks.better)
            ties.append(ranks.ties)
        return Ranks(torch.cat(better), torch.cat(ties))


def _recall(ranks: Ranks, ks: Sequence[int], protocol: str, prefix: str = "") -> list[ResultRecord]:
    """R@K with Wilson intervals, ties counted against the query."""
    tied = ranks.tied
    return [share(f"{prefix}R@{k}", ranks.hits(k).bool().tolist(), protocol, ties=tied) for k in ks]


def _product_lines(keys: Sequence[str], products: Sequence[str], ranks: Ranks) -> list[Line]:
    places = zip(keys, products, (ranks.better + ranks.ties).tolist(), ranks.ties.tolist())
    return [{"rule": "product-level", "key": k, "product": p, "rank": rank, "ties": ties} for k, p, rank, ties in places]


@dataclass(frozen=True)
class ComposedQuery:
    """A search whose answer is known.

    Attributes:
        key: unique name.
        reference, target: ids of gallery images.
        text: the first modifying text; None = :func:`multi_round` asks its feedback for it.
    """

    key: str
    reference: str
    target: str
    text: str | None = None


@dataclass(frozen=True)
class Measured:
    """Result records, and the lines they can be recomputed from."""

    records: list[ResultRecord] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def __getitem__(self, metric: str) -> float:
        """The value of a metric by its name.

        Raises:
            KeyError: no metric of that name, or one that is not available.
        """
        values = {r.metric: r.value for r in self.records}
        if (value := values.get(metric)) is None:
            raise KeyError(f"no value of {metric!r}; there are {', '.join(values) or 'none'}")
        return value

    def write(self, folder: str | Path) -> Path:
        """Write ``results.json`` and ``predictions/robustness.jsonl`` as the evaluator does; returns the folder."""
        folder = Path(folder)
        write_lines(folder / "predictions" / f"{NAME}.jsonl", self.lines)
        write_records(folder / "results.json", self.records)
        return folder


@dataclass
class _Search:
    """A gallery of images by id that a model composes queries for."""

    model: UniFashionModule
    images: Mapping[str, OneImage]
    batch_size: int

    def __post_init__(self) -> None:
        self.ids = sorted(self.images)
        self.column = {key: i for i, key in enumerate(self.ids)}
        pictures = [self.images[key] for key in self.ids]
        self.tokens = encode_image(self.model, pictures, "target", batch_size=self.batch_size)

    def scores(self, references: Sequence[str], texts: Sequence[str]) -> Tensor:
        """(N, G) of composed queries, on the CPU; columns in the order of sorted ids."""
        pictures = [self.images[key] for key in references]
        vectors = compose(self.model, pictures, texts, batch_size=self.batch_size)
        with exact_fp32(vectors.device):
            return token_scores(vectors, self.tokens)


def _checked(gallery: Mapping[str, OneImage], queries: Sequence[ComposedQuery]) -> None:
    if not queries:
        raise ValueError("no queries: expected at least one ComposedQuery")
    keys = [query.key for query in queries]
    if len(set(keys)) < len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"keys of queries must be unique, these come twice: {', '.join(twice[:5])}")
    if missing := sorted({i for q in queries for i in (q.reference, q.target)} - set(gallery)):
        raise ValueError(
            f"not in the gallery of {len(gallery)} images: {', '.join(missing[:5])}; add them, or leave their queries out"
        )
    if same := [query.key for query in queries if query.reference == query.target]:
        raise ValueError(
            f"reference and target are the same image in queries {', '.join(same[:5])}: there is nothing to search"
        )


def _context(model: UniFashionModule, queries: Sequence[ComposedQuery]) -> dict[str, str]:
    told = {query.key: f"{query.reference}\t{query.target}\t{query.text or ''}" for query in queries}
    return {"data_hash": fingerprint(told), "weights_hash": weights_hash(model), "code_version": __version__}


def product_recall(
    model: UniFashionModule,
    gallery: Mapping[str, OneImage],
    queries: Sequence[ComposedQuery],
    product_of: Callable[[str], str],
    *,
    ks: Sequence[int] = (10, 50),
    data: str = "gallery",
    batch_size: int = 32,
) -> Measured:
    """R@K of composed queries on products: a hit if any image of the target's product is among the best K products.

    A product stands where its best image stands, so that its further images take no places. The reference stays in the gallery.

    Args:
        model: has a retrieval head.
        gallery: image (or its path) by id.
        queries: with their texts.
        product_of: name of the product that an image shows, by image id.
        ks: the K of R@K.
        data: name of the data, part of the protocol.
        batch_size: images embedded at once.

    Returns:
        Records ``R@K`` in percent, one line per query.

    Raises:
        ValueError: no queries, ids missing from the gallery, equal keys, or a query without a text.
    """
    _checked(gallery, queries)
    if silent := [query.key for query in queries if query.text is None]:
        raise ValueError(f"queries without a text: {', '.join(silent[:5])}; product_recall needs one each")
    search = _Search(model, gallery, batch_size)
    products, targets = [product_of(key) for key in search.ids], [product_of(query.target) for query in queries]
    scores = search.scores([query.reference for query in queries], [query.text or "" for query in queries])
    ranks = product_ranks(scores, products, targets, [query.key for query in queries])
    details = f"images={len(products)},products={len(set(products))},score=itc"
    records = _recall(ranks, ks, f"{NAME}/product-level/{data}/ref-kept/image({details})")
    lines = [{"dataset": data, **line} for line in _product_lines([query.key for query in queries], targets, ranks)]
    return Measured([r.with_context(**_context(model, queries)) for r in records], lines)


@dataclass
class _Dialogue:
    """One user's search so far: what is asked next, what was seen, and where the target stood in each round."""

    query: ComposedQuery
    reference: str
    text: str | None
    seen: set[str]
    rounds: list[Line] = field(default_factory=list)

    @property
    def ranks(self) -> list[int]:
        return [r["rank"] for r in self.rounds]

    @property
    def goes_on(self) -> bool:
        return self.text is not None and (not self.rounds or self.rounds[-1]["rank"] > 0)


def multi_round(
    model: UniFashionModule,
    gallery: Mapping[str, OneImage],
    queries: Sequence[ComposedQuery],
    feedback: Feedback,
    rounds: int = 3,
    *,
    ks: Sequence[int] = (1, 10),
    data: str = "gallery",
    batch_size: int = 32,
) -> Measured:
    """Composed retrieval in several rounds with a simulated user who knows the target.

    Round 1 asks with the query's reference and text. As long as the target is not first, the user then takes the best image that is
    not the target and about which there is something to say as the next reference, and says it. Images that were a reference are
    known and no longer ranked. A user with nothing to say about any image gives up; later rounds then count as failures.

    Args:
        model: has a retrieval head.
        gallery: image (or its path) by id, e.g. those of one category.
        queries: searches; those without a text start with the feedback on their reference.
        feedback: ``(candidate id, target id)`` -> modifying text, or None where there is nothing to say.
        rounds: at most so many.
        ks: the K of success@K.
        data: name of the data, part of the protocol.
        batch_size: images embedded at once.

    Returns:
        Records ``success@K/round-r``: percent of searches whose target had come under the first K by the end of round r; one line per
        search with its rounds (``reference``, ``text``, ``rank`` from 0 with ties counted against it, ``ties``).

    Raises:
        ValueError: fewer than one round, no queries, ids missing from the gallery, equal keys, or an empty text of the feedback.

    >>> found = multi_round(model, images, queries, feedback, rounds=5)  # doctest: +SKIP
    >>> found["success@1/round-5"]                                       # doctest: +SKIP
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; expected at least 1")
    _checked(gallery, queries)
    search = _Search(model, gallery, batch_size)
    dialogues = [
        _Dialogue(q, q.reference, q.text if q.text is not None else _say(feedback, q.reference, q.target), {q.reference})
        for q in queries
    ]
    for left in reversed(range(rounds)):
        active = [dialogue for dialogue in dialogues if dialogue.goes_on]
        if active:
            _one_round(search, active, feedback if left else None)
    ranks = [dialogue.ranks for dialogue in dialogues]
    details = f"rounds={rounds},images={len(search.ids)},references=removed,found=by-round,score=itc"
    protocol = f"{NAME}/multi-round/{data}/image({details})"
    table = {k: success_by_round(ranks, k, rounds) for k in ks}
    records = [share(f"success@{k}/round-{r + 1}", [own[r] for own in table[k]], protocol) for k in ks for r in range(rounds)]
    lines = [
        {"dataset": data, "rule": "multi-round", "key": d.query.key, "target": d.query.target, "rounds": d.rounds}
        | {"gave_up": d.text is None}
        for d in dialogues
    ]
    return Measured([r.with_context(**_context(model, queries)) for r in records], lines)


def _one_round(search: _Search, active: Sequence[_Dialogue], feedback: Feedback | None) -> None:
    """Rank for every dialogue, then choose what it asks next; without feedback this was the last round."""
    scores = search.scores([d.reference for d in active], [d.text or "" for d in active])
    allowed = torch.tensor([[key not in d.seen for key in search.ids] for d in active])
    targets = [search.column[d.query.target] for d in active]
    ranks = exact_ranks(scores, targets, allowed, [d.query.key for d in active])
    for i, dialogue in enumerate(active):
        rank, ties = int(ranks.better[i] + ranks.ties[i]), int(ranks.ties[i])
        dialogue.rounds.append({"reference": dialogue.reference, "text": dialogue.text, "rank": rank, "ties": ties})
        if rank > 0 and feedback is not None:
            _go_on(dialogue, scores[i].tolist(), search.ids, feedback)


def _go_on(dialogue: _Dialogue, scores: Sequence[float], ids: Sequence[str], feedback: Feedback) -> None:
    """The best image that was not seen, is not the target and can be spoken about becomes the reference; else the user gives up."""
    target = dialogue.query.target
    for i in sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i])):
        if ids[i] in dialogue.seen or ids[i] == target:
            continue
        text = _say(feedback, ids[i], target)
        if text is not None:
            dialogue.reference, dialogue.text = ids[i], text
            dialogue.seen.add(ids[i])
            return
    dialogue.text = None


def _say(feedback: Feedback, candidate: str, target: str) -> str | None:
    text = feedback(candidate, target)
    if text is not None and not text.strip():
        raise ValueError(f"the feedback on {candidate} for {target} is {text!r}: expected a text, or None for nothing to say")
    return text
