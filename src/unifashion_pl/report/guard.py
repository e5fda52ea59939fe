"""Whether numbers that read gallery captions can be believed: the floor of word matching, the audit, and why they are labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unifashion_pl.metrics.leaks import HALF
from unifashion_pl.metrics.protocol import AUDIT
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.tables import Records, column_order, is_plain

ASSISTED = ("caption", "both")


@dataclass(frozen=True)
class Audit:
    """How well a bag of words tells the targets of a category from other images, by their captions and with labels shuffled."""

    category: str
    auc: float | None
    shuffled: float | None
    error: float | None
    doubt: str | None
    n: int


@dataclass(frozen=True)
class Guard:
    """The records of one evaluation that read gallery captions, and what guards them."""

    records: Sequence[ResultRecord]

    @property
    def composed(self) -> Records:
        """Composed retrieval over whole galleries, reference kept."""
        return [r for r in self.records if is_plain(r) and r.under.reference == "ref-kept" and r.value is not None]

    @property
    def assisted(self) -> list[Records]:
        """Whole queries that read gallery captions, by protocol."""
        groups: dict[str, dict[str, ResultRecord]] = {}
        for r in self.composed:
            if r.under.score in ASSISTED and r.under.half == "itc":
                groups.setdefault(r.protocol, {})[r.metric] = r
        return [[group[metric] for metric in column_order(group)] for group in groups.values()]

    @property
    def floors(self) -> dict[tuple[str, str], float | None]:
        """(gallery, metric) -> what word matching alone (BM25) reaches in percent."""
        return {(r.under.gallery, r.metric): r.value for r in self.composed if r.under.half == "bm25"}

    @property
    def audits(self) -> list[Audit]:
        """What a bag of words knows, per category."""
        values = {r.metric: r for r in self.records if r.under.score == AUDIT}
        made = []
        for metric, record in values.items():
            category, _, name = metric.partition("/")
            if name == "caption-AUC":
                control = values.get(f"{metric}/labels-shuffled")
                error = (record.interval.high - record.interval.low) / (2 * HALF) if record.interval else None
                made.append(Audit(category, record.value, control.value if control else None, error, record.doubt, record.n))
        return made

    @property
    def reasons(self) -> list[str]:
        """Why numbers are labelled ``leaked`` or ``suspicious``, each reason once."""
        return list(dict.fromkeys(f"{r.under.unsafe}: {r.doubt}" for r in self.records if r.under.unsafe and r.doubt))
