"""Guards against captions that know the query: text-only floor, caption audit and provenance.

A generated gallery caption may only come from the image (plus category and keywords of the train split). If its author's prompt
held the query's text, caption-assisted retrieval measures text matching. The floor shows what text matching alone reaches, the
audit asks whether words tell targets from other images, the provenance check refuses captions that do not say how they were made.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unifashion_pl.metrics.fashioniq_results import averages
from unifashion_pl.metrics.recall import exact_ranks, recall_percent

PROVENANCE = ("captioner", "weights_hash", "template", "decoding", "inputs")
ALLOWED_INPUTS = frozenset({"image", "category", "keywords"})
WARN_ABOVE, REFUSE_ABOVE = 0.55, 0.60
SHUFFLES = 5


class LeakError(ValueError):
    """Gallery captions that must not be evaluated; the message says which and why."""


def bm25_tokens(text: str) -> list[str]:
    """``[a-z0-9]+`` of the lower-cased text."""
    return re.findall(r"[a-z0-9]+", text.lower())


def bm25_scores(documents: Sequence[str], queries: Sequence[str], k1: float = 1.2, b: float = 0.75) -> Tensor:
    """BM25 of every query against every document, (queries, documents) float64; statistics over these documents.

    Query terms are distinct tokens; idf = ln(1 + (N - df + 0.5) / (df + 0.5)).

    >>> bm25_scores(["a red dress", "a blue shirt"], ["red"]).round(decimals=6).tolist()
    [[0.693147, 0.0]]
    """
    split = [bm25_tokens(document) for document in documents]
    lengths = torch.tensor([len(tokens) for tokens in split], dtype=torch.float64)
    average = float(lengths.mean()) if len(split) else 0.0
    norm = k1 * (1 - b + b * lengths / average) if average else torch.full_like(lengths, k1)
    postings: dict[str, list[tuple[int, int]]] = {}
    for i, tokens in enumerate(split):
        for term, count in Counter(tokens).items():
            postings.setdefault(term, []).append((i, count))
    scores = torch.zeros(len(queries), len(documents), dtype=torch.float64)
    for row, query in zip(scores, queries):
        for term in sorted(set(bm25_tokens(query)) & postings.keys()):
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
    positive = sum(map(bool, labels))
    if not 0 < positive < len(labels):
        raise ValueError("AUC needs both classes")
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    total, start = 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and scores[order[end]] == scores[order[start]]:
            end += 1
        rank = (start + 1 + end) / 2
        total += rank * sum(bool(labels[i]) for i in order[start:end])
        start = end
    return (total - positive * (positive + 1) / 2) / (positive * (len(labels) - positive))


def audit_scores(captions: Sequence[str], is_target: Sequence[int | bool]) -> list[float]:
    """Held-out bag-of-words scores: each parity of the position is scored with the word counts of the other."""
    words = [set(re.findall(r"[a-z]+", caption.lower())) for caption in captions]
    scores = [0.0] * len(words)
    for fold in (0, 1):
        train = [i for i in range(len(words)) if i % 2 != fold]
        counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        sizes = [0, 0]
        for i in train:
            label = int(bool(is_target[i]))
            counts[label].update(words[i])
            sizes[label] += 1

        def weight(word: str, counts: tuple[Counter[str], Counter[str]] = counts, sizes: Sequence[int] = tuple(sizes)) -> float:
            return math.log((counts[1][word] + 1) / (sizes[1] + 2)) - math.log((counts[0][word] + 1) / (sizes[0] + 2))

        for i in range(fold, len(words), 2):
            scores[i] = math.fsum(weight(word) for word in words[i])
    return scores


@dataclass(frozen=True)
class Audit:
    """Whether words tell targets from other gallery images.

    Attributes:
        auc: 0.5 = they do not.
        control: the same with shuffled labels, mean of several shuffles.
        verdict: ``ok``, ``warn`` (> 0.55) or ``refuse`` (> 0.60).
    """

    auc: float
    control: float
    verdict: str


def caption_audit(captions: Sequence[str], is_target: Sequence[int | bool], seed: int = 0) -> Audit:
    """Audit the captions of one gallery.

    Args:
        captions: one per gallery image, in a fixed order (e.g. sorted by id).
        is_target: whether the image is the target of a query.
        seed: of the label shuffles of the control.
    """
    value = auc(audit_scores(captions, is_target), is_target)
    generator, controls = random.Random(seed), []
    for _ in range(SHUFFLES):
        shuffled = generator.sample(list(is_target), len(is_target))
        controls.append(auc(audit_scores(captions, shuffled), shuffled))
    control = math.fsum(controls) / SHUFFLES
    verdict = "refuse" if value > REFUSE_ABOVE else "warn" if value > WARN_ABOVE else "ok"
    return Audit(value, control, verdict)


def provenance_faults(record: Mapping[str, Any], required: Sequence[str] = PROVENANCE) -> list[str]:
    """Why a gallery caption may not be evaluated; empty = it may.

    Args:
        record: a line of a caption file.
        required: fields that must be there and not empty.
    """
    faults = [f"no {name}" for name in required if not record.get(name)]
    inputs = record.get("inputs") or []
    if beyond := sorted(set(inputs) - ALLOWED_INPUTS):
        faults.append(f"made from {', '.join(beyond)}")
    if "keywords" in inputs and record.get("keywords_split") != "train":
        faults.append(f"keywords of split {record.get('keywords_split')!r}")
    if str(record.get("text_guidance") or "").strip():
        faults.append("text_guidance is not empty")
    return faults


def check_provenance(
    records: Iterable[Mapping[str, Any]],
    gallery_ids: Iterable[str] | None = None,
    required: Sequence[str] = PROVENANCE,
    allow_unsafe: bool = False,
) -> str | None:
    """Refuse gallery captions that may know the queries.

    Args:
        records: lines with ``image`` (id), ``caption`` and provenance fields.
        gallery_ids: the ids the captions must be of; None = not checked.
        allow_unsafe: do not raise.

    Returns:
        None if all is well; with ``allow_unsafe`` the reason, which must be printed as *leaked* beside every number.

    Raises:
        LeakError: naming the first offending images and all reasons.
    """
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    seen = set()
    for record in records:
        image = str(record.get("image", "?"))
        seen.add(image)
        for fault in provenance_faults(record, required):
            reasons[fault] += 1
            examples.setdefault(fault, image)
    if gallery_ids is not None and (strange := sorted(seen - set(gallery_ids))):
        reasons["not in the gallery"] = len(strange)
        examples["not in the gallery"] = strange[0]
    if not reasons:
        return None
    text = "; ".join(f"{reason} ({count}, e.g. {examples[reason]})" for reason, count in reasons.most_common())
    message = f"gallery captions are not known to be query-blind: {text}"
    if allow_unsafe:
        return message
    raise LeakError(message)
