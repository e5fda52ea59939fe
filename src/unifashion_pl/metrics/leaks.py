"""Guards against captions that know the query: text-only floor and caption audit.

A generated gallery caption may only come from the image (plus category and keywords of the train split). If its author's prompt
held the query's text, caption-assisted retrieval measures text matching. The floor shows what text matching alone reaches, the
audit asks whether words tell targets from other images. :func:`~unifashion_pl.data.captions.check_provenance` asks how they were made.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unifashion_pl.data.captions import LeakError
from unifashion_pl.metrics.ranked import averages
from unifashion_pl.metrics.recall import exact_ranks, recall_percent

WARN_ABOVE, REFUSE_ABOVE = 0.55, 0.60
SHUFFLES = 5
LUCK = 5.0
#: Half of a 95 % interval in standard errors.
HALF = 1.96


def bm25_scores(documents: Sequence[str], queries: Sequence[str], k1: float = 1.2, b: float = 0.75) -> Tensor:
    """BM25 of every query against every document, (queries, documents) float64; statistics over these documents.

    Tokens are ``[a-z0-9]+`` of the lower-cased text, query terms are distinct ones; idf = ln(1 + (N - df + 0.5) / (df + 0.5)).

    >>> bm25_scores(["a red dress", "a blue shirt"], ["red"]).round(decimals=6).tolist()
    [[0.693147, 0.0]]
    """
    split, asked = ([re.findall(r"[a-z0-9]+", text.lower()) for text in texts] for texts in (documents, queries))
    lengths = torch.tensor([len(tokens) for tokens in split], dtype=torch.float64)
    average = float(lengths.mean()) if len(split) else 0.0
    norm = k1 * (1 - b + b * lengths / average) if average else torch.full_like(lengths, k1)
    postings: dict[str, list[tuple[int, int]]] = {}
    for i, tokens in enumerate(split):
        for term, count in Counter(tokens).items():
            postings.setdefault(term, []).append((i, count))
    scores = torch.zeros(len(queries), len(documents), dtype=torch.float64)
    for row, terms in zip(scores, asked):
        for term in sorted(postings.keys() & terms):
            where, counts = zip(*postings[term])
            index, tf = torch.tensor(where), torch.tensor(counts, dtype=torch.float64)
            idf = math.log(1 + (len(documents) - len(where) + 0.5) / (len(where) + 0.5))
            row[index] += idf * tf * (k1 + 1) / (tf + norm[index])
    return scores


@dataclass(frozen=True)
class TextQuery:
    """A composed query without its image: category, target id and the modification text (all parts joined)."""

    category: str
    target: str
    text: str


def text_only_floor(
    queries: Sequence[TextQuery], captions: Mapping[str, Mapping[str, str]], ks: Sequence[int] = (10, 50)
) -> dict[str, float]:
    """Recall of BM25 between query texts and gallery captions: no image, no model.

    Args:
        queries: all queries.
        captions: category -> image id -> caption, the whole gallery.

    Returns:
        ``{"dress/R@10": percent, ..., "mean/R@10": ..., "Avg": ...}``, to be printed beside every caption-assisted number.

    Raises:
        ValueError: a target has no caption.
    """
    values: dict[str, float] = {}
    for category in sorted({query.category for query in queries}):
        column = {image: i for i, image in enumerate(captions.get(category, {}))}
        own = [query for query in queries if query.category == category]
        if missing := sorted({q.target for q in own} - column.keys()):
            raise ValueError(f"{category}: targets without a caption: {', '.join(missing[:5])}")
        scores = bm25_scores(list(captions[category].values()), [query.text for query in own])
        recall = recall_percent(exact_ranks(scores, [column[query.target] for query in own]), ks)
        values.update({f"{category}/{name}": value for name, value in recall.items()})
    return {**values, **averages(values, ks)}


def auc(scores: Sequence[float], labels: Sequence[int | bool]) -> float:
    """Area under the ROC curve; ties count half.

    Raises:
        ValueError: only one class is present.
    """
    every, chosen = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    positive, others = every[chosen], np.sort(every[~chosen])
    if not len(positive) or not len(others):
        raise ValueError("AUC needs both classes")
    below, not_above = (np.searchsorted(others, positive, side) for side in ("left", "right"))
    return float((below + not_above).sum() / 2 / (len(positive) * len(others)))


def _held_out(words: Sequence[set[str]], is_target: Sequence[int | bool]) -> list[float]:
    """Bag-of-words scores: each parity of the position is scored with the word counts of the other."""
    scores = [0.0] * len(words)
    for fold in (0, 1):
        counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        sizes = [0, 0]
        for i in range(1 - fold, len(words), 2):
            label = int(bool(is_target[i]))
            counts[label].update(words[i])
            sizes[label] += 1
        weights = {
            word: math.log((counts[1][word] + 1) / (sizes[1] + 2)) - math.log((counts[0][word] + 1) / (sizes[0] + 2))
            for word in set[str]().union(*words)
        }
        for i in range(fold, len(words), 2):
            scores[i] = math.fsum(weights[word] for word in words[i])
    return scores


@dataclass(frozen=True)
class Audit:
    """Whether words tell targets from other gallery images.

    Attributes:
        auc: 0.5 = they do not.
        control: the same with shuffled labels, mean of several shuffles.
        verdict: ``ok``, ``warn`` (> 0.55) or ``refuse`` (> 0.60).
        error: standard error of ``auc`` where words tell nothing: 0.01 for a category of Fashion-IQ, large for a toy.
    """

    auc: float
    control: float
    verdict: str
    error: float

    @property
    def finding(self) -> str:
        """The verdict, but ``ok`` where luck explains it: ``auc`` less than five standard errors above 0.5.

        Five, because galleries hold families of look-alikes, which the formula of the error does not know. In Fashion-IQ they are
        less than the 0.05 of ``warn``.
        """
        return self.verdict if self.auc - 0.5 > LUCK * self.error else "ok"


def caption_audit(captions: Sequence[str], is_target: Sequence[int | bool], seed: int = 0) -> Audit:
    """Audit the captions of one gallery.

    Args:
        captions: one per gallery image, in a fixed order (e.g. sorted by id).
        is_target: whether the image is the target of a query.
        seed: of the label shuffles of the control.

    Raises:
        ValueError: all images are targets, or none is.
    """
    words = [set(re.findall(r"[a-z]+", caption.lower())) for caption in captions]
    value = auc(_held_out(words, is_target), is_target)
    generator, controls = random.Random(seed), []
    for _ in range(SHUFFLES):
        shuffled = generator.sample(list(is_target), len(is_target))
        controls.append(auc(_held_out(words, shuffled), shuffled))
    control = math.fsum(controls) / SHUFFLES
    verdict = "refuse" if value > REFUSE_ABOVE else "warn" if value > WARN_ABOVE else "ok"
    targets = sum(map(bool, is_target))
    error = math.sqrt((len(words) + 1) / (12 * targets * (len(words) - targets)))
    return Audit(value, control, verdict, error)


def check_audits(audits: Mapping[str, Audit], allow_unsafe: bool = False) -> str | None:
    """Refuse gallery captions whose words give the targets away: those with the finding ``refuse``; ``warn`` is suspicious.

    Args:
        audits: category -> audit of its gallery.
        allow_unsafe: do not raise.

    Returns:
        None if all is well, else the reason, which must be printed as *suspicious* beside every number.

    Raises:
        LeakError: naming the refused categories.
    """
    strange = {name: a for name, a in audits.items() if a.finding != "ok"}
    if not strange:
        return None
    found = ", ".join(f"{name} AUC {a.auc:.3f} (labels shuffled {a.control:.3f})" for name, a in strange.items())
    text = f"words of gallery captions tell targets from other images: {found}"
    if any(a.finding == "refuse" for a in strange.values()) and not allow_unsafe:
        raise LeakError(
            f"{text}; expected at most {REFUSE_ABOVE}, about 0.5 for captions written without the queries: write them anew from "
            "the images alone, or allow_unsafe_captions=true and call the results suspicious"
        )
    return text
