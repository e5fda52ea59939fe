"""Prediction lines -> what every query scored and under which protocol: all that a comparison of two runs needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from unifashion_pl.metrics.lines import CaptionLine, ComposedLine, Line, RetrievalLine, place
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.runfolder import Evaluation
from unifashion_pl.report.tables import GALLERIES, MEANINGS, column_order, cut_of, is_plain

#: Titles, the records behind them, and rows by id.
Made = Iterator[tuple[str, Sequence[ResultRecord], dict[str, "ScoredSample"]]]
#: Means over captions; BLEU and METEOR are ratios over the whole set, so a caption has no share in them.
CAPTION_MEANS = ("ROUGE-L", "CIDEr")


@dataclass(frozen=True)
class ScoredSample:
    """One query or caption.

    Attributes:
        asked: what it was; two runs are paired only where it is equal.
        stratum: part of the data whose mean counts by itself (a category); "" = one part.
        cluster: rows that share an image or product.
        values: metric -> what this row adds to it, in percent (caption metrics × 100).
    """

    asked: str
    stratum: str
    cluster: str
    values: dict[str, float]


@dataclass(frozen=True)
class Outcomes:
    """All rows under one protocol.

    Attributes:
        title: for readers.
        protocols: those of the records behind it, as text.
        data: data hashes of those records.
        rows: by id.
    """

    title: str
    protocols: frozenset[str]
    data: frozenset[str]
    rows: dict[str, ScoredSample]

    @property
    def metrics(self) -> list[str]:
        """Names in the order of tables."""
        return column_order({name for row in self.rows.values() for name in row.values})

    @property
    def said(self) -> str:
        """The protocols for readers."""
        return ", ".join(sorted(self.protocols)) or "none that its results.json names"


def outcomes(evaluation: Evaluation) -> dict[str, Outcomes]:
    """Everything in a test folder that has a value per query, by a name that is the same in every run."""
    found: dict[str, Outcomes] = {}
    for kind, make in MAKERS.items():
        lines = evaluation.lines(kind)
        for dataset in sorted({line.dataset for line in lines}):
            known = [r for r in evaluation.records if r.dataset in (None, dataset)]
            for name, records, rows in make(known, [line for line in lines if line.dataset == dataset]):
                title, data = f"{dataset}: {name}", frozenset(r.data_hash for r in records if r.data_hash)
                if rows:
                    found[title] = Outcomes(title, frozenset(r.protocol for r in records), data, rows)
    return found


def cutoffs(records: Iterable[ResultRecord]) -> list[int]:
    """The K of R@K among the metrics."""
    return sorted({cut for r in records if (cut := cut_of(r.metric)) is not None})


def _composed(records: Sequence[ResultRecord], lines: Sequence[ComposedLine]) -> Made:
    """Every score on either gallery, reference kept."""
    ranked = [line for line in lines if line.ranks]
    shared = set.intersection(*(set(line.ranks) for line in ranked)) if ranked else set()
    for variant in sorted(shared, key=lambda v: (v.split("/")[0] != GALLERIES[0], v.split("/")[-1] != "image", v)):
        gallery, reference, score = variant.split("/")
        if gallery not in GALLERIES or reference != "ref-kept":
            continue
        whole = [r for r in records if is_plain(r) and r.under.half not in MEANINGS]
        own = [r for r in whole if r.under.variant == (gallery, reference, score)]
        rows = {line.key: _composed_row(line, line.ranks[variant], cutoffs(own)) for line in ranked}
        yield f"composed retrieval, gallery {gallery}, {score} score", own, rows


def _composed_row(line: ComposedLine, rank: Sequence[int], ks: Sequence[int]) -> ScoredSample:
    """``rank`` = [rank, ties]; a tie counts against the query."""
    hits = {k: 100.0 * (sum(rank) <= k) for k in ks}
    values = {f"{part}/R@{k}": hit for part in (line.category, "mean") for k, hit in hits.items()}
    if hits:
        values["Avg"] = sum(hits.values()) / len(hits)
    asked = f"{line.category} {line.reference} {line.target} {line.text}"
    return ScoredSample(asked, line.category, line.reference, values)


def _retrieval(records: Sequence[ResultRecord], lines: Sequence[RetrievalLine]) -> Made:
    """One per protocol; draws of the same candidates stay together, products are the clusters."""
    for protocol in dict.fromkeys(line.protocol for line in lines):
        own = [r for r in records if r.under.name == protocol and not r.under.chance]
        ranked = [line for line in lines if line.protocol == protocol]
        sizes = Counter(line.direction for line in ranked)
        rows = {}
        for line in ranked:
            hits = {k: 100.0 * (place(line) <= k) for k in cutoffs(own)}
            values = {f"{line.direction}/R@{k}": hit for k, hit in hits.items()}
            if hits:  # the mean weighs both directions alike, however many queries they have
                share = len(ranked) / (len(sizes) * sizes[line.direction])
                values["mean"] = share * sum(hits.values()) / len(hits)
            name = f"{line.direction}, draw {line.draw}, {line.query}"
            rows[name] = ScoredSample(f"{line.product} among {line.candidates}", "", line.product, values)
        yield protocol, own, rows


def _captions(records: Sequence[ResultRecord], lines: Sequence[CaptionLine]) -> Made:
    """Caption scores, and every plain-word check."""

    def row(line: CaptionLine, values: dict[str, float]) -> ScoredSample:
        return ScoredSample(f"{line.style} {line.reference}", "", line.id, values)

    scored = {}
    for line in lines:
        if line.scores:
            known = {metric: line.scores.get(metric) for metric in CAPTION_MEANS}
            scored[line.id] = row(line, {metric: 100 * value for metric, value in known.items() if value is not None})
    yield "caption scores", [r for r in records if r.metric in CAPTION_MEANS and r.value is not None], scored
    for name in sorted({name for line in lines for name in line.words}):
        said = [r for r in records if r.metric == f"caption/{name}_accuracy" and not r.under.chance]
        rows = {}
        for line in lines:
            found, true = line.words.get(name, (None, None))
            if true:
                rows[line.id] = row(line, {f"{name} named right": 100.0 * (found == true)})
        yield f"captions, first {name} word", said, rows


MAKERS: dict[type[Line], Callable[..., Made]] = {ComposedLine: _composed, RetrievalLine: _retrieval, CaptionLine: _captions}
