"""What a test measured, as the tables show it: numbers beside chance, composed retrieval against its halves, captions against their floor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from unifashion_pl.metrics.leaks import HALF
from unifashion_pl.metrics.protocol import AUDIT, HEADLINE, Protocol
from unifashion_pl.metrics.records import ResultRecord

SPREAD = "/sd_over_draws"
GALLERIES = ("original", "union")
VARIANTS = {
    "itc": "composed query",
    "text-only": "text only",
    "text-blank": "text + blank image",
    "image-only": "image + empty text",
    "image-similarity": "image similarity",
    "bm25": "words alone (BM25)",
}
MEANINGS = {
    "text-only": "the modifying text alone through the text pass",
    "text-blank": "the composed query with the reference replaced by a grey picture",
    "image-only": "the composed query with an empty text",
    "image-similarity": "the mean of the reference's own target-query tokens",
    "bm25": "word matching between query text and gallery captions, without images or a model",
}
SCORES = {"image": "image score", "caption": "caption score", "both": "image + caption score"}
#: Scores that read gallery captions.
ASSISTED = ("caption", "both")
CAPTION_SCALE = {"CIDEr", "METEOR", "ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"}

Records = list[ResultRecord]


@dataclass(frozen=True)
class Results:
    """The records of one evaluation, as its tables ask for them. A group has records of one dataset and protocol."""

    records: Sequence[ResultRecord]

    @cached_property
    def _chance(self) -> dict[tuple[str | None, Protocol, str], float]:
        return {_key(r): r.value for r in self.records if r.under.chance and r.value is not None}

    def chance(self, record: ResultRecord) -> float | None:
        """What chance reaches in percent; None = not known."""
        return self._chance.get(_key(record))

    @cached_property
    def other(self) -> Records:
        """Cross-modal retrieval, captions and whatever else is not composed retrieval."""
        return [r for r in self.records if not (r.under.chance or r.under.composed or r.under.score == AUDIT)]

    @property
    def plain(self) -> list[Records]:
        """Groups of numbers that are shown at once."""
        return grouped(r for r in self.other if not r.under.robustness and not r.metric.endswith(SPREAD))

    @property
    def spread(self) -> list[Records]:
        """Groups of standard deviations over draws of the candidates."""
        return grouped(r for r in self.other if r.metric.endswith(SPREAD))

    @property
    def robustness(self) -> list[Records]:
        """Groups of what was asked in other words, denied, or judged by product."""
        return grouped(r for r in self.other if r.under.robustness)

    @cached_property
    def composed(self) -> Records:
        """Composed retrieval of every kind."""
        return [r for r in self.records if r.under.composed and not r.under.chance]

    @property
    def columns(self) -> list[str]:
        """Metrics of composed retrieval."""
        return column_order(r.metric for r in self.composed)

    def matrix(self, gallery: str) -> list[tuple[str, str, dict[str, ResultRecord]]]:
        """(half, score, metric -> record) of a gallery with the reference kept."""
        cells: dict[tuple[str, str], dict[str, ResultRecord]] = {}
        for r in self.kept:
            if r.under.gallery == gallery:
                cells.setdefault((r.under.half, r.under.score), {})[r.metric] = r
        known = list(VARIANTS)
        order = sorted(cells, key=lambda k: (known.index(k[0]) if k[0] in known else len(known), k[1] != "image"))
        return [(half, score, cells[half, score]) for half, score in order]

    def levels(self, gallery: str) -> list[float | None]:
        """What chance reaches in every column of a matrix; empty where nothing is known."""
        base = next((cells for half, score, cells in self.matrix(gallery) if (half, score) == ("itc", "image")), {})
        levels = [self.chance(base[c]) if c in base else None for c in self.columns]
        return levels if any(level is not None for level in levels) else []

    @property
    def headline(self) -> Records:
        """The variant that the paper reports, asked with the whole query and with halves of it."""
        return [r for r in self.kept if r.under.variant == HEADLINE and r.value is not None]

    @property
    def gain(self) -> str:
        """One sentence: mean R@K at the smallest K of the composed query, of its stronger half and of chance."""
        cuts = [cut_of(r.metric) or 0 for r in self.composed if r.metric.startswith("mean/R@")]
        metric = f"mean/R@{min(cuts, default=0)}"
        reached = {r.under.half: r for r in self.headline if r.metric == metric}
        whole = reached.pop("itc", None)
        if whole is None or not reached:
            return ""
        best = max(reached, key=lambda half: reached[half].value or 0)
        level = self.chance(whole)
        return (
            f"In {metric} the composed query reaches {whole.value:.1f}, its stronger half ({VARIANTS.get(best, best)}) "
            f"{reached[best].value:.1f}{'' if level is None else f', chance {level:.1f}'}."
        )

    @cached_property
    def kept(self) -> Records:
        """Composed retrieval over all queries of a gallery, the reference kept."""
        return [r for r in self.composed if is_plain(r) and r.under.reference == "ref-kept"]

    @property
    def assisted(self) -> list[Records]:
        """Whole queries that read gallery captions, by protocol."""
        groups: dict[str, dict[str, ResultRecord]] = {}
        for r in self.kept:
            if r.under.score in ASSISTED and r.under.half == "itc" and r.value is not None:
                groups.setdefault(r.protocol, {})[r.metric] = r
        return [[group[metric] for metric in column_order(group)] for group in groups.values()]

    @property
    def floors(self) -> dict[tuple[str, str], float]:
        """(gallery, metric) -> what word matching alone (BM25) reaches in percent."""
        alone = (r for r in self.kept if r.under.half == "bm25")
        return {(r.under.gallery, r.metric): r.value for r in alone if r.value is not None}

    @property
    def reasons(self) -> list[str]:
        """Why numbers are labelled ``leaked`` or ``suspicious``, each reason once."""
        return list(dict.fromkeys(f"{r.under.unsafe}: {r.doubt}" for r in self.records if r.under.unsafe and r.doubt))

    @property
    def audits(self) -> list[tuple[ResultRecord, ResultRecord | None]]:
        """How well a bag of words tells the targets of a category from other images, by their captions and with labels shuffled."""
        values = {r.metric: r for r in self.records if r.under.score == AUDIT}
        return [(r, values.get(f"{name}/labels-shuffled")) for name, r in values.items() if name.endswith("/caption-AUC")]


def _key(record: ResultRecord) -> tuple[str | None, Protocol, str]:
    """What a number and its chance level share."""
    return record.dataset, replace(record.under, chance=False), record.metric


def grouped(records: Iterable[ResultRecord]) -> list[Records]:
    """Neighbours of one dataset and protocol."""
    return [list(group) for _, group in groupby(records, key=lambda r: (r.dataset, r.protocol))]


def is_plain(record: ResultRecord) -> bool:
    """Whether it is composed retrieval of all queries, and no chance level."""
    return record.under.composed and not record.under.further and not record.under.chance


def cut_of(metric: str) -> int | None:
    """The K of R@K, which ends the name of a metric.

    >>> cut_of("dress/R@10"), cut_of("Avg")
    (10, None)
    """
    _, found, digits = metric.rpartition("R@")
    return int(digits) if found and digits.isdecimal() and len(digits) < 10 else None


def column_order(names: Iterable[str]) -> list[str]:
    """Means first, then categories, each in the order of K.

    >>> column_order(["shirt/R@10", "mean/R@50", "Avg", "mean/R@10"])
    ['mean/R@10', 'mean/R@50', 'shirt/R@10', 'Avg']
    """

    def place(name: str) -> tuple[bool, bool, str, int, str]:
        return not name.startswith("mean"), name == "Avg", name.split("/")[0], cut_of(name) or 0, name

    return sorted(set(names), key=place)


def flags(record: ResultRecord) -> list[str]:
    """Red labels: captions may know the queries, only a part of the data was seen, or weights are not trained.

    >>> unsafe = "fashioniq/original/ref-kept/caption(text=and,captions=leaked)"
    >>> flags(ResultRecord("Avg", 1.0, "percent", 9, unsafe, weights="random"))
    ['leaked', 'random weights']
    """
    weights = "" if record.weights is None else record.flaw
    return [flag for flag in (record.under.unsafe, "shortened" if record.shortened else "", weights) if flag]


def scale(record: ResultRecord) -> float:
    """Caption metrics are printed × 100 as in the paper, recall as it is."""
    return 100.0 if record.metric in CAPTION_SCALE else 1.0


def value_text(record: ResultRecord) -> str:
    """The value as tables print it; small ones keep their digits."""
    return "" if record.value is None else f"{record.value * scale(record):.{3 if _small(record) else 2}f}"


def interval_text(record: ResultRecord) -> str:
    """The interval in the same unit."""
    if record.interval is None:
        return "–"
    ends = record.interval.scaled(scale(record))
    return f"{ends.low:.3f} – {ends.high:.3f}" if _small(record) else f"{ends.low:.1f}–{ends.high:.1f}"


def _small(record: ResultRecord) -> bool:
    return record.unit != "percent" and record.value is not None and abs(record.value * scale(record)) < 1


def standard_error(record: ResultRecord) -> float | None:
    """Of a value with a normal interval; older records of an audit say it in ``implementation``. None where it is not known."""
    if record.interval is not None:
        return (record.interval.high - record.interval.low) / (2 * HALF)
    said = (record.implementation or "").partition("standard error without leak ")[2]
    return float(said) if said.replace(".", "", 1).isdecimal() else None
