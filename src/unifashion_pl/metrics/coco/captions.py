"""BLEU, ROUGE-L and CIDEr-D exactly as pycocoevalcap 1.2 computes them, as pure functions over tokenised captions.

A tokenised caption is a string of tokens separated by single blanks (what a PTB tokeniser prints), "" if it has none. All scores
are raw: BLEU and ROUGE-L in 0..1, CIDEr-D in 0..10. BLEU and CIDEr-D are corpus metrics: averaging them over batches is wrong.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

References = Sequence[Sequence[str]]
Array = np.ndarray[Any, Any]
Gram = tuple[str, ...]
ORDERS = 4
_TINY, _SMALL = 1e-15, 1e-9


def ngrams(tokens: Sequence[str], longest: int = ORDERS) -> Counter[Gram]:
    """Counts of all n-grams with n = 1..longest."""
    spans = range(1, longest + 1)
    return Counter(tuple(tokens[i : i + n]) for n in spans for i in range(len(tokens) - n + 1))


def bleu_statistics(hypotheses: Sequence[str], references: References) -> Array:
    """Sufficient statistics of BLEU, (N, 10): length, closest reference length, matches 1..4, candidates 1..4.

    Matches are clipped by the largest count over references; of two equally close references the shorter length counts.
    """
    rows = []
    for hypothesis, several in zip(hypotheses, references):
        words = hypothesis.split()
        split = [reference.split() for reference in several]
        ceiling: Counter[Gram] = Counter()
        for reference in split:
            ceiling |= ngrams(reference)
        matches = [0] * ORDERS
        for gram, count in ngrams(words).items():
            matches[len(gram) - 1] += min(count, ceiling[gram])
        closest = min((abs(len(reference) - len(words)), len(reference)) for reference in split)[1]
        rows.append([len(words), closest, *matches, *(max(0, len(words) - n) for n in range(ORDERS))])
    return np.array(rows, dtype=np.float64).reshape(-1, 2 + 2 * ORDERS)


def bleu_from_statistics(statistics: Array) -> Array:
    """BLEU-1..4 from summed statistics (..., 10) -> (..., 4)."""
    length, closest = statistics[..., 0:1], statistics[..., 1:2]
    precision = (statistics[..., 2:6] + _TINY) / (statistics[..., 6:10] + _SMALL)
    product = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (length + _TINY) / (closest + _SMALL)
    return product * np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)


def bleu(hypotheses: Sequence[str], references: References) -> list[float]:
    """Corpus BLEU-1..4.

    >>> [round(value, 6) for value in bleu(["green linen trousers"], [["green linen trousers"]])]
    [1.0, 1.0, 1.0, 0.031623]
    """
    return bleu_from_statistics(bleu_statistics(hypotheses, references).sum(0)).tolist()


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(hypotheses: Sequence[str], references: References, beta: float = 1.2) -> list[float]:
    """ROUGE-L F per item; precision and recall are maximised over references separately.

    An empty string counts as one empty token, as upstream.
    """
    values = []
    for hypothesis, several in zip(hypotheses, references):
        words = hypothesis.split(" ")
        split = [reference.split(" ") for reference in several]
        common = [common_subsequence(words, reference) for reference in split]
        precision = max(c / len(words) for c in common)
        recall = max(c / len(reference) for c, reference in zip(common, split))
        both = precision != 0 and recall != 0
        values.append((1 + beta**2) * precision * recall / (recall + beta**2 * precision) if both else 0.0)
    return values


class _Vector:
    """TF-IDF vector of a caption, one part per n-gram order; length = number of bigrams."""

    def __init__(self, caption: str, frequencies: Counter[Gram], log_items: float) -> None:
        self.parts: list[dict[Gram, float]] = [{} for _ in range(ORDERS)]
        self.length = 0
        for gram, count in ngrams(caption.split()).items():
            self.parts[len(gram) - 1][gram] = count * (log_items - math.log(max(1.0, frequencies[gram])))
            self.length += count if len(gram) == 2 else 0
        self.norms = [math.sqrt(sum(weight**2 for weight in part.values())) for part in self.parts]

    def similarity(self, reference: _Vector, sigma: float) -> float:
        """Sum over n of the clipped cosine, times the length penalty."""
        penalty = math.exp(-((self.length - reference.length) ** 2) / (2 * sigma**2))
        total = 0.0
        for own, other, norm, other_norm in zip(self.parts, reference.parts, self.norms, reference.norms):
            value = sum(min(weight, other[gram]) * other[gram] for gram, weight in own.items() if gram in other)
            total += value / (norm * other_norm) if norm and other_norm else value
        return total * penalty


def cider_d(hypotheses: Sequence[str], references: References, sigma: float = 6.0) -> list[float]:
    """CIDEr-D per item; the corpus value is their mean.

    The IDF comes from all references given here, so the whole evaluated set must be passed at once; a single item scores 0.
    """
    seen = ({gram for reference in several for gram in ngrams(reference.split())} for several in references)
    frequencies = Counter(gram for grams in seen for gram in grams)
    log_items = math.log(len(references)) if references else 0.0
    values = []
    for hypothesis, several in zip(hypotheses, references):
        own = _Vector(hypothesis, frequencies, log_items)
        parts = [own.similarity(_Vector(reference, frequencies, log_items), sigma) for reference in several]
        values.append(10.0 * sum(parts) / len(parts) / ORDERS)
    return values
