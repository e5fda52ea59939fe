"""Runs against each other on the same queries: paired differences with intervals and p values, from prediction files alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from textwrap import shorten

import numpy as np

from unifashion_pl.metrics.intervals import RESAMPLES, Floats, cluster_codes, cluster_sums, compare_paired, exact_mcnemar
from unifashion_pl.metrics.records import Interval
from unifashion_pl.report.html import Page, figure, table
from unifashion_pl.report.outcomes import Outcomes, outcomes
from unifashion_pl.report.runfolder import Evaluation, Run

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """One metric of two runs on the same queries.

    Attributes:
        metric: name.
        first, second: what the runs reach.
        difference: second minus first.
        interval: paired bootstrap of the difference.
        more, fewer: clusters (queries of one image or product) in which the second run reaches more, or less.
        p_value: exact two-sided sign test over those; McNemar's test where every cluster is one query.
        n: queries.
        significant: whether the p value survives Holm's correction over the metrics of its protocol.
    """

    metric: str
    first: float
    second: float
    difference: float
    interval: Interval
    more: int
    fewer: int
    p_value: float
    n: int
    significant: bool = False


def refusal(first: Outcomes, second: Outcomes, names: tuple[str, str]) -> str | None:
    """Why two sets of outcomes cannot be paired, as a sentence; None if they can."""
    a, b = names
    if first.protocols != second.protocols:
        return (
            f"{first.title} is not compared, because that would mix protocols: {a} was measured under {_said(first.protocols)}, "
            f"{b} under {_said(second.protocols)}. Evaluate both under one protocol."
        )
    left, right = sorted(first.rows.keys() - second.rows.keys()), sorted(second.rows.keys() - first.rows.keys())
    if left or right:
        parts = [f"{len(k)} only in {name} (e.g. {k[0]})" for name, k in ((a, left), (b, right)) if k]
        return (
            f"{first.title} is not compared, because the runs did not answer the same queries: {' and '.join(parts)}, "
            f"{len(first.rows.keys() & second.rows.keys())} in both. Evaluate both with the same data, seed and number of queries."
        )
    strange = sorted(key for key, row in first.rows.items() if row.asked != second.rows[key].asked)
    if strange:
        key = strange[0]
        return (
            f"{first.title} is not compared, because {len(strange)} queries of the same id differ, e.g. {key}: "
            f"“{shorten(first.rows[key].asked, 120)}” in {a}, “{shorten(second.rows[key].asked, 120)}” in {b}. "
            "Evaluate both on the same data."
        )
    if first.data and second.data and first.data != second.data:
        return f"{first.title} is not compared, because the data differ: hash {_said(first.data)} in {a}, {_said(second.data)} in {b}."
    return None


def _said(values: frozenset[str]) -> str:
    return ", ".join(sorted(values)) or "none that its results.json names"


def differences(first: Outcomes, second: Outcomes, resamples: int = RESAMPLES) -> list[Difference]:
    """Second minus first for every metric that both have; the rows must be the same (see :func:`refusal`)."""
    made = []
    for metric in first.metrics:
        keys = [key for key, row in first.rows.items() if metric in row.values and metric in second.rows[key].values]
        if not keys:
            continue
        rows = [first.rows[key] for key in keys]
        a = np.array([row.values[metric] for row in rows])
        b = np.array([second.rows[key].values[metric] for key in keys])
        strata, clusters = [row.stratum for row in rows], [f"{row.stratum}|{row.cluster}" for row in rows]
        found = compare_paired(b, a, clusters, strata, resamples=resamples)
        more, fewer = sign_counts(b - a, clusters)
        first_mean, second_mean = _stratified(a, strata), _stratified(b, strata)
        p = exact_mcnemar(more, fewer)
        made.append(Difference(metric, first_mean, second_mean, found.difference, found.interval, more, fewer, p, len(keys)))
    passed = holm([d.p_value for d in made])
    return [replace(d, significant=ok) for d, ok in zip(made, passed)]


def _stratified(values: Floats, strata: Sequence[str]) -> float:
    codes = cluster_codes(strata)
    return float(np.mean([values[codes == i].mean() for i in range(int(codes.max()) + 1)]))


def sign_counts(gaps: Floats, clusters: Sequence[str]) -> tuple[int, int]:
    """In how many clusters the gaps sum to more, and to less, than zero.

    >>> sign_counts(np.array([1.0, -1.0, 1.0, -1.0]), ["a", "a", "b", "c"])
    (1, 1)
    """
    codes = cluster_codes(clusters)
    sums = cluster_sums(gaps, codes, int(codes.max()) + 1)[:, 0].round(9)
    return int((sums > 0).sum()), int((sums < 0).sum())


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of several p values are significant together (Holm's step-down correction).

    >>> holm([0.04, 0.001, 0.03])
    [False, True, False]
    """
    passed = [False] * len(p_values)
    for done, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] > level / (len(p_values) - done):
            break
        passed[i] = True
    return passed


def partners(first: Run, second: Run) -> list[tuple[Evaluation, Evaluation]]:
    """Evaluations of the same phase; the only ones of two runs belong together whatever their phase is called."""
    if len(first.evaluations) == len(second.evaluations) == 1:
        return [(first.evaluations[0], second.evaluations[0])]
    labels = {evaluation.label: evaluation for evaluation in second.evaluations}
    return [(evaluation, labels[evaluation.label]) for evaluation in first.evaluations if evaluation.label in labels]


def add_comparison(page: Page, runs: Sequence[Run]) -> None:
    """Every further run against the first; nothing for a single one."""
    if len(runs) < 2:
        return
    page.section("comparison", "Comparison of the runs")
    first = runs[0]
    for second in runs[1:]:
        if len(runs) > 2:
            page.add(f"<h3>{escape(second.name)} against {escape(first.name)}</h3>")
        pairs = partners(first, second)
        if not pairs:
            found = "; ".join(f"{run.name}: {_phases(run)}" for run in (first, second))
            page.add(_refused(f"No phase was evaluated in both runs ({found}). Run `test` on both."))
        for one, two in pairs:
            _add_pair(page, one, two, (first.name, second.name))


def _phases(run: Run) -> str:
    return ", ".join(e.label or "the run itself" for e in run.evaluations) or "no evaluation"


def _refused(sentence: str) -> str:
    return f'<p class="note refused">{escape(sentence)}</p>'


def _add_pair(page: Page, one: Evaluation, two: Evaluation, names: tuple[str, str]) -> None:
    first, second = outcomes(one), outcomes(two)
    rows: list[list[str]] = []
    sentences: list[str] = []
    for title in [*first, *(t for t in second if t not in first)]:
        if title not in first or title not in second:
            sentences.append(f"{title} was measured in {names[title in second]} only.")
        elif reason := refusal(first[title], second[title], names):
            sentences.append(reason)
        else:
            rows += _rows(first[title], differences(first[title], second[title]))
    if rows:
        head = ["metric", *map(escape, names), "difference", "", "more : fewer", "p", "n"]
        page.add(page.caption("Table", _legend(one, two, names)), table(head, rows, "compare"))
    page.add(*map(_refused, sentences))
    if not rows and not sentences:
        page.add(_refused("Neither run holds prediction files with ranks: evaluate both again with `test`."))


def _legend(one: Evaluation, two: Evaluation, names: tuple[str, str]) -> str:
    a, b = map(escape, names)
    where = f", {escape(one.label)}" if one.label and one.label == two.label else ""
    weights = [{r.weights_hash for r in e.records if r.weights_hash} for e in (one, two)]
    same = " Both runs evaluated the same weights." if weights[0] and weights[0] == weights[1] else ""
    return (
        f"{b} minus {a}{where}, on the same queries under the same protocol, with 95&nbsp;% intervals beneath: paired bootstrap over clusters "
        "(reference images, products). <i>more : fewer</i> counts the clusters in which the second run reaches more, or less; p is the exact sign test on "
        "these counts (McNemar’s test where a cluster is one query). ★ is significant at 5&nbsp;% after Holm’s correction over "
        "its protocol’s rows. The drawing of queries is covered, chance in training is not: for that, repeat both with other seeds."
        + same
    )


def _rows(of: Outcomes, found: Sequence[Difference]) -> list[list[str]]:
    reach = max((max(abs(d.interval.low), abs(d.interval.high), abs(d.difference)) for d in found), default=1.0) or 1.0
    rows = [[f"<b>{escape(of.title)}</b> <span class='dim'>{escape(_said(of.protocols).replace(',', ', '))}</span>"]]
    for d in found:
        css = "" if not d.significant else "good" if d.difference > 0 else "bad"
        gap = f'<b class="{css}">{signed(d.difference)}</b>'
        star = "★" if d.significant else ""
        rows.append(
            [
                escape(d.metric),
                figure(d.first),
                figure(d.second),
                f"{gap}<small>{signed(d.interval.low, 1)} … {signed(d.interval.high, 1)}</small>",
                difference_bar(d, reach),
                f"{d.more:,} : {d.fewer:,}",
                f"{p_text(d.p_value)}<span class='star'>{star}</span>",
                f"{d.n:,}",
            ]
        )
    return rows


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, zero without.

    >>> signed(1.234), signed(-0.5, 1), signed(-0.001)
    ('+1.23', '−0.5', '0.00')
    """
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


def p_text(p: float) -> str:
    """A p value as tables print it.

    >>> p_text(0.0312), p_text(1e-9), p_text(1.0)
    ('0.031', '&lt;0.001', '1')
    """
    return "&lt;0.001" if p < 0.001 else "1" if p > 0.9995 else f"{p:.3f}"


def difference_bar(d: Difference, reach: float) -> str:
    """A dot with its interval around zero."""

    def x(value: float) -> str:
        return f"{50 + 48 * value / reach:.1f}"

    return (
        '<svg class="bar" viewBox="-2 0 104 16" aria-hidden="true"><line class="grid" x1="0" x2="100" y1="8" y2="8"/>'
        f'<line class="zero" x1="50" x2="50" y1="1" y2="15"/><line class="whisker" x1="{x(d.interval.low)}" '
        f'x2="{x(d.interval.high)}" y1="8" y2="8"/><circle cx="{x(d.difference)}" cy="8" r="3"/></svg>'
    )
