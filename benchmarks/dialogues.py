"""Composed searches over a gallery of one's own, from Python: recall of products, and dialogues of several rounds.

`benchmarks/robustness.py` asks them of the toy wardrobe. They need to know more than an evaluation's batches tell: which images show one product, and what a user would say next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import msgspec
import torch
from torch import Tensor

from unifashion_pl import __version__
from unifashion_pl.evaluation.robustness import NAME, PRODUCTS, product_lines, recall_records, share
from unifashion_pl.evaluation.sampling import fingerprint
from unifashion_pl.inference import compose, encode_image
from unifashion_pl.inference.images import OneImage
from unifashion_pl.interface import FashionModel
from unifashion_pl.metrics.lines import Count, Line, Rank, write_lines
from unifashion_pl.metrics.protocol import Protocol
from unifashion_pl.metrics.recall import exact_fp32, exact_ranks, token_scores
from unifashion_pl.metrics.records import ResultRecord, write_records
from unifashion_pl.metrics.robustness import product_ranks, success_by_round
from unifashion_pl.provenance import weights_hash

Feedback = Callable[[str, str], str | None]


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


class Round(msgspec.Struct):
    """What was asked in a round, and where the target stood among what was not a reference before."""

    reference: str
    text: str
    rank: Rank
    ties: Count

    @property
    def place(self) -> int:
        """From 1, ties counted against the target."""
        return self.rank + self.ties


class DialogueLine(Line, kw_only=True):
    """One search in several rounds; ``gave_up``: the user had nothing more to say."""

    file: ClassVar[str] = NAME
    rule: str = "multi-round"
    key: str
    target: str
    rounds: list[Round]
    gave_up: bool


@dataclass(frozen=True)
class Measured:
    """Result records, and the lines they can be recomputed from."""

    records: list[ResultRecord] = field(default_factory=list)
    lines: Sequence[Line] = ()

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

    model: FashionModel
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


def _context(model: FashionModel, queries: Sequence[ComposedQuery]) -> dict[str, str]:
    told = {query.key: f"{query.reference}\t{query.target}\t{query.text or ''}" for query in queries}
    return {"data_hash": fingerprint(told), "weights_hash": weights_hash(model), "code_version": __version__}


def product_recall(
    model: FashionModel,
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
    protocol = Protocol(data, robustness=PRODUCTS, reference="ref-kept", score="image")
    protocol = protocol.adding(images=len(products), products=len(set(products)), score="itc")
    records = recall_records(ranks, ks, protocol)
    lines = product_lines([query.key for query in queries], targets, ranks, dataset=data)
    return Measured([r.with_context(dataset=data, **_context(model, queries)) for r in records], lines)


@dataclass
class _Dialogue:
    """One user's search so far: what is asked next, what was seen, and where the target stood in each round."""

    query: ComposedQuery
    reference: str
    text: str | None
    seen: set[str]
    rounds: list[Round] = field(default_factory=list)

    @property
    def goes_on(self) -> bool:
        return self.text is not None and (not self.rounds or self.rounds[-1].place > 1)


def multi_round(
    model: FashionModel,
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
        search with its rounds (:class:`DialogueLine`).

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
    ranks = [[one.place - 1 for one in dialogue.rounds] for dialogue in dialogues]
    protocol = Protocol(data, robustness="multi-round", score="image").adding(rounds=rounds, images=len(search.ids))
    protocol = protocol.adding(references="removed", found="by-round", score="itc")
    table = {k: success_by_round(ranks, k, rounds) for k in ks}
    records = [share(f"success@{k}/round-{r + 1}", [own[r] for own in table[k]], protocol) for k in ks for r in range(rounds)]
    lines = [
        DialogueLine(dataset=data, key=d.query.key, target=d.query.target, rounds=d.rounds, gave_up=d.text is None)
        for d in dialogues
    ]
    return Measured([r.with_context(dataset=data, **_context(model, queries)) for r in records], lines)


def _one_round(search: _Search, active: Sequence[_Dialogue], feedback: Feedback | None) -> None:
    """Rank for every dialogue, then choose what it asks next; without feedback this was the last round."""
    scores = search.scores([d.reference for d in active], [d.text or "" for d in active])
    allowed = torch.tensor([[key not in d.seen for key in search.ids] for d in active])
    targets = [search.column[d.query.target] for d in active]
    ranks = exact_ranks(scores, targets, allowed, [d.query.key for d in active])
    for i, dialogue in enumerate(active):
        rank, ties = int(ranks.better[i]) + 1, int(ranks.ties[i])
        dialogue.rounds.append(Round(dialogue.reference, dialogue.text or "", rank, ties))
        if dialogue.goes_on and feedback is not None:
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
