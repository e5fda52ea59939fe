"""Runs against each other on the same queries: paired differences with intervals and p values, from prediction files alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import shorten

import numpy as np

from unifashion_pl.metrics.intervals import RESAMPLES, Floats, cluster_codes, cluster_sums, compare_paired, exact_mcnemar
from unifashion_pl.metrics.records import Interval
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


@dataclass(frozen=True)
class Pair:
    """Two evaluations of the same queries, by runs and phase; ``refused`` says what of them is not compared, and why."""

    first: str
    second: str
    label: str
    same_weights: bool
    groups: list[tuple[Outcomes, list[Difference]]]
    refused: list[str]


def refusal(first: Outcomes, second: Outcomes, names: tuple[str, str]) -> str | None:
    """Why two sets of outcomes cannot be paired, as a sentence; None if they can."""
    a, b = names
    if first.protocols != second.protocols:
        return (
            f"{first.title} is not compared, because that would mix protocols: {a} was measured under {first.said}, "
            f"{b} under {second.said}. Evaluate both under one protocol."
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
        return f"{first.title} is not compared, because the data differ: hash {', '.join(sorted(first.data))} in {a}, {', '.join(sorted(second.data))} in {b}."
    return None


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


def comparisons(runs: Sequence[Run]) -> list[tuple[str, list[Pair]]]:
    """Every further run against the first, phase by phase, under a title; nothing for a single one."""
    return [(f"{run.name} against {runs[0].name}", _pairs(runs[0], run)) for run in runs[1:]]


def _pairs(first: Run, second: Run) -> list[Pair]:
    pairs = [_pair(one, two, (first.name, second.name)) for one, two in partners(first, second)]
    phases = (", ".join(e.label or "the run itself" for e in run.evaluations) or "no evaluation" for run in (first, second))
    found = "; ".join(f"{run.name}: {said}" for run, said in zip((first, second), phases))
    why = f"No phase was evaluated in both runs ({found}). Run `test` on both."
    return pairs or [Pair(first.name, second.name, "", False, [], [why])]


def _pair(one: Evaluation, two: Evaluation, names: tuple[str, str]) -> Pair:
    first, second = outcomes(one), outcomes(two)
    groups, refused = [], []
    for title in dict.fromkeys([*first, *second]):
        if title not in first or title not in second:
            refused.append(f"{title} was measured in {names[title in second]} only.")
        elif reason := refusal(first[title], second[title], names):
            refused.append(reason)
        else:
            groups.append((first[title], differences(first[title], second[title])))
    if not groups and not refused:
        refused.append("Neither run holds prediction files with ranks: evaluate both again with `test`.")
    weights = [{r.weights_hash for r in e.records if r.weights_hash} for e in (one, two)]
    same_weights = bool(weights[0]) and weights[0] == weights[1]
    return Pair(*names, one.label if one.label == two.label else "", same_weights, groups, refused)


def reach(found: Sequence[Difference]) -> float:
    """Difference that one hundredth of a bar shows: the largest end of an interval lies 48 away from the middle."""
    return (max((abs(x) for d in found for x in (d.interval.low, d.interval.high, d.difference)), default=0.0) or 1.0) / 48
