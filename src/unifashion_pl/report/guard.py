"""Whether numbers that read gallery captions can be believed: the floor of word matching, the audit, and why they are labelled."""

from __future__ import annotations

from html import escape

from unifashion_pl.metrics.leaks import HALF
from unifashion_pl.metrics.protocol import AUDIT
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.html import Page, figure, table
from unifashion_pl.report.runfolder import Evaluation
from unifashion_pl.report.tables import column_order, is_plain, titled

ASSISTED = ("caption", "both")


def assisted(records: list[ResultRecord]) -> list[ResultRecord]:
    """Numbers of whole queries that read gallery captions, reference kept."""
    return [
        r
        for r in records
        if is_plain(r) and r.under.half == "itc" and r.under.reference == "ref-kept" and r.under.score in ASSISTED
        if r.value is not None
    ]


def floors(records: list[ResultRecord]) -> dict[tuple[str, str], float]:
    """(gallery, metric) -> what word matching alone (BM25) reaches in percent."""
    return {
        (r.under.gallery, r.metric): r.value for r in records if is_plain(r) and r.under.half == "bm25" and r.value is not None
    }


def reasons(records: list[ResultRecord]) -> list[str]:
    """Why numbers are labelled ``leaked`` or ``suspicious``, each reason once."""
    return list(dict.fromkeys(f"{r.under.unsafe}: {r.doubt}" for r in records if r.under.unsafe and r.doubt))


def add_guard(page: Page, evaluation: Evaluation) -> None:
    """Caption-assisted numbers beside the floor, then the audit of the captions; nothing where no caption was read."""
    numbers, audits = assisted(evaluation.records), [r for r in evaluation.records if r.under.score == AUDIT]
    if numbers:
        page.add(*(f'<p class="note refused">{escape(why)}</p>' for why in reasons(evaluation.records)))
        page.add(page.caption("Table", _text(evaluation.records)), _floor_table(numbers, floors(evaluation.records)))
    if audits:
        text = (
            "Audit of the gallery captions. A bag of words, fitted on one half, tells targets from other images on the other: 0.5 means "
            "that it cannot, as it must be for captions written without the queries. The control has its labels shuffled."
        )
        page.add(page.caption("Table", text), _audit_table(audits))


def _text(records: list[ResultRecord]) -> str:
    text = (
        "Composed retrieval with gallery captions, recall in percent with 95&nbsp;% intervals beneath, against what word matching between query text and captions reaches "
        "without any image or model (BM25). Only what stands above this floor is the model’s."
    )
    if not floors(records):
        text += ' <b class="flag">no floor</b> results.json holds none: these numbers cannot be told from text matching.'
    return text


def _floor_table(numbers: list[ResultRecord], floor: dict[tuple[str, str], float]) -> str:
    rows: list[list[str]] = []
    for protocol in dict.fromkeys(r.protocol for r in numbers):
        own = {r.metric: r for r in numbers if r.protocol == protocol}
        rows.append([titled(next(iter(own.values())))])
        for metric in column_order(own):
            record = own[metric]
            assert record.value is not None
            low = floor.get((record.under.gallery, metric))
            spread = f"<small>{record.interval.low:.1f}–{record.interval.high:.1f}</small>" if record.interval else ""
            gap = "–" if low is None else f"{record.value - low:+.2f}"
            rows.append([escape(metric), f"<b>{figure(record.value)}</b>{spread}", figure(low), gap, f"{record.n:,}"])
    return table(["metric", "with captions", "words alone", "above the floor", "n"], rows, "guard")


def _audit_table(audits: list[ResultRecord]) -> str:
    values = {r.metric: r for r in audits}
    rows = []
    for metric, record in values.items():
        category, _, name = metric.partition("/")
        if name != "caption-AUC":
            continue
        control = values.get(f"{metric}/labels-shuffled")
        mark = f'<b class="flag">{escape(record.doubt)}</b>' if record.doubt else "ok"
        error = (record.interval.high - record.interval.low) / (2 * HALF) if record.interval else None
        rows.append(
            [
                escape(category),
                figure(record.value, 3),
                figure(control.value if control else None, 3),
                figure(error, 3),
                mark,
                f"{record.n:,}",
            ]
        )
    return table(["category", "AUC", "labels shuffled", "standard error", "verdict", "captions"], rows, "guard")
