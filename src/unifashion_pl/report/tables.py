"""Tables of a report: our numbers with interval, n, chance and ablations, from result records alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from html import escape

from unifashion_pl.metrics.protocol import AUDIT, Protocol
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.html import Page, details, figure, table
from unifashion_pl.report.runfolder import Evaluation

SPREAD = "/sd_over_draws"
ALL_KEPT = ("original", "ref-kept", "image")
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
CAPTION_SCALE = {"CIDEr", "METEOR", "ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"}


def scaled(record: ResultRecord) -> tuple[float | None, float]:
    """Value as tables print it, and the factor: caption metrics × 100 as in the paper, recall as it is."""
    factor = 100.0 if record.metric in CAPTION_SCALE else 1.0
    return (None if record.value is None else record.value * factor), factor


Chance = dict[tuple[str | None, Protocol, str], float]


def chance_key(record: ResultRecord) -> tuple[str | None, Protocol, str]:
    """Dataset, protocol and metric, which a number and its chance level share."""
    return record.dataset, replace(record.under, chance=False), record.metric


def chance_of(records: Iterable[ResultRecord]) -> Chance:
    """:func:`chance_key` -> chance level in percent."""
    return {chance_key(r): r.value for r in records if r.under.chance and r.value is not None}


def interval_bar(value: float, low: float, high: float, chance: float | None) -> str:
    """A dot with its interval on an axis from 0 to 100, the chance level as a tick."""
    tick = f'<line class="chance" x1="{chance:.1f}" x2="{chance:.1f}" y1="1" y2="15"/>' if chance is not None else ""
    return (
        '<svg class="bar" viewBox="-2 0 104 16" aria-hidden="true"><line class="grid" x1="0" x2="100" y1="8" y2="8"/>'
        f'{tick}<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="8" y2="8"/><circle cx="{value:.1f}" cy="8" r="3"/></svg>'
    )


def titled(record: ResultRecord, data: str = "") -> str:
    """Head of a group of rows: name and details of a protocol, behind the name of the data, and what is wrong with them; HTML."""
    under = record.under
    extra = ", ".join((*under.said, *under.further))
    return f"{data}<b>{escape(under.name)}</b> <span class='dim'>{escape(extra)}</span>{flag(record)}"


def number_rows(records: list[ResultRecord], chance: Chance) -> list[list[str]]:
    """Rows of the table of numbers, grouped by protocol."""
    rows: list[list[str]] = []
    last: tuple[str | None, str] | None = None
    datasets = {r.dataset for r in records}
    for r in records:
        if (r.dataset, r.protocol) != last:
            rows.append([titled(r, f"{escape(r.dataset)}: " if r.dataset and len(datasets) > 1 else "")])
            last = (r.dataset, r.protocol)
        value, factor = scaled(r)
        level = chance.get(chance_key(r))
        small = r.unit != "percent" and value is not None and abs(value) < 1
        ends = (r.interval.low * factor, r.interval.high * factor) if r.interval else None
        spread = ("{:.3f} – {:.3f}" if small else "{:.1f}–{:.1f}").format(*ends) if ends else "–"
        bar = ""
        if r.unit == "percent" and value is not None and r.interval:
            bar = interval_bar(value, r.interval.low, r.interval.high, level)
        n = f"{r.n:,}" + (f"<span class='dim'>/{r.n_expected:,}</span>" if r.n_expected not in (None, r.n) else "")
        shown = (
            figure(value, 3 if small else 2)
            if value is not None
            else f"<span class='dim'>n/a: {escape((r.implementation or 'not available').removeprefix('n/a: '))}</span>"
        )
        name = escape(r.metric.removeprefix("caption/").replace("_", " "))
        rows.append([name, f"<b>{shown}</b>", spread, bar, figure(level, 1) if level is not None else "–", n])
    return rows


HEAD = ["metric", "value", "95&nbsp;% interval", "0 … 100", "chance", "n"]


def flag(record: ResultRecord) -> str:
    """Red labels where gallery captions may know the queries, where only a part of the data was seen, or where weights are not trained.

    >>> flag(ResultRecord("Avg", 1.0, "percent", 9, "fashioniq/original/ref-kept/caption(score=itc,text=and,captions=leaked)"))
    ' <b class="flag">leaked</b>'
    """
    weights = "random weights" if record.weights == "random" else record.weights
    said = [word for word in (record.under.unsafe, "shortened" if record.shortened else "", weights) if word]
    return "".join(f' <b class="flag">{escape(word)}</b>' for word in said)


def is_plain(record: ResultRecord) -> bool:
    """Whether it is composed retrieval of all queries, and no chance level."""
    return record.under.composed and not record.under.further and not record.under.chance


def add_numbers(page: Page, evaluation: Evaluation) -> None:
    """Cross-modal retrieval, captions and whatever else is not composed retrieval."""
    chance = chance_of(evaluation.records)
    every = [r for r in evaluation.records if not r.under.chance and not r.under.composed and r.under.score != AUDIT]
    folded = [r for r in every if r.under.robustness]
    records = [r for r in every if not r.metric.endswith(SPREAD) and r not in folded]
    if not records and not folded:
        return
    text = (
        "Numbers of this run. Recall in percent (a tie is a miss), caption metrics × 100, intervals at 95&nbsp;%; the tick on the bar is "
        "chance."
    )
    page.add(page.caption("Table", text), table(HEAD, number_rows(records, chance), "numbers"))
    spread = [r for r in every if r.metric.endswith(SPREAD)]
    if spread:
        page.add(details("Standard deviation over draws of the candidates", table(HEAD, number_rows(spread, {}), "numbers")))
    if folded:
        title = "Robustness: queries in other words and denied, products instead of views"
        page.add(details(title, table(HEAD, number_rows(folded, {}), "numbers")))


def add_composed(page: Page, evaluation: Evaluation) -> None:
    """Composed retrieval: composed query against its ablations and chance, per category; all other variants folded."""
    ours = [r for r in evaluation.records if r.under.composed]
    plain = [r for r in ours if not r.under.chance]
    if not plain:
        return
    chance = chance_of(ours)
    columns = column_order(r.metric for r in plain)
    rows: list[list[str]] = []
    for gallery in ("original", "union"):
        part = _matrix(plain, chance, columns, gallery)
        if part:
            rows += [[f"gallery <b>{gallery}</b>, reference kept"], *part]
    used = [f"<i>{VARIANTS[v]}</i>: {MEANINGS[v]}" for v in MEANINGS if any(r.under.half == v for r in plain)]
    text = f"Composed retrieval, {max(r.n for r in plain):,} queries, recall in percent with 95&nbsp;% intervals beneath. "
    if used:
        text += f"{gain(plain, chance)} What either half of the query reaches alone: {'; '.join(used)}."
    page.add(page.caption("Table", text), table(["query", *map(escape, columns)], rows, "matrix", groups(columns)))
    page.add(
        details(f"All {len(plain)} composed-retrieval numbers, by protocol", table(HEAD, number_rows(plain, chance), "numbers"))
    )


def gain(records: list[ResultRecord], chance: Chance) -> str:
    """One sentence: mean R@K of the composed query, of its stronger half and of chance, on the whole gallery."""
    smallest = min(
        (r.metric for r in records if r.metric.startswith("mean/R@")), key=lambda m: int(m.split("@")[1]), default=""
    )
    values: dict[str, tuple[float, ResultRecord]] = {}
    for r in records:
        if is_plain(r) and r.metric == smallest and r.value is not None and r.under.variant == ALL_KEPT:
            values[r.under.half] = (r.value, r)
    halves = {name: value for name, (value, _) in values.items() if name != "itc"}
    if "itc" not in values or not halves:
        return ""
    best = max(halves, key=lambda name: halves[name])
    ours, record = values["itc"]
    level = chance.get(chance_key(record))
    tail = f", chance {level:.1f}" if level is not None else ""
    return (
        f"In {escape(smallest)} the composed query reaches <b>{ours:.1f}</b>, its stronger half "
        f"({VARIANTS.get(best, best)}) {halves[best]:.1f}{tail}."
    )


def column_order(names: Iterable[str]) -> list[str]:
    """Means first, then categories, each in the order of K.

    >>> column_order(["shirt/R@10", "mean/R@50", "Avg", "mean/R@10"])
    ['mean/R@10', 'mean/R@50', 'shirt/R@10', 'Avg']
    """

    def place(name: str) -> tuple[bool, bool, str, int, str]:
        return (
            not name.startswith("mean"),
            name == "Avg",
            name.split("/")[0],
            int((re.findall(r"\d+$", name) or ["0"])[0]),
            name,
        )

    return sorted(set(names), key=place)


def groups(columns: list[str]) -> list[tuple[str, int]]:
    """Runs of columns that share the part before the slash: (name, length), for a second header row.

    >>> groups(["mean/R@10", "mean/R@50", "Avg"])
    [('mean', 2), ('Avg', 1)]
    """
    runs: list[tuple[str, int]] = []
    for name in (c.partition("/")[0] for c in columns):
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return runs


def _matrix(records: list[ResultRecord], chance: Chance, columns: list[str], gallery: str) -> list[list[str]]:
    """One row per (variant, score) of a gallery with the reference kept, chance last."""
    cells: dict[tuple[str, str], dict[str, ResultRecord]] = {}
    for r in records:
        if is_plain(r) and r.under.gallery == gallery and r.under.reference == "ref-kept":
            cells.setdefault((r.under.half, r.under.score), {})[r.metric] = r
    order = sorted(cells, key=lambda k: (list(VARIANTS).index(k[0]) if k[0] in VARIANTS else 99, k[1] != "image"))
    several = len({score for _, score in cells}) > 1
    rows = []
    for half, score in order:
        first = next(iter(cells[half, score].values()))
        name = VARIANTS.get(half, half) + flag(first)
        name += f"<small>{SCORES.get(score, score)}</small>" if several else ""
        css = "<b>{}</b>" if half == "itc" else "{}"
        rows.append([css.format(name), *(_cell(cells[half, score].get(c), css) for c in columns)])
    base = cells.get(("itc", "image"), {})
    levels = [chance.get(chance_key(base[c])) if c in base else None for c in columns]
    if any(level is not None for level in levels):
        rows.append(["<i>chance</i>", *(f"<i>{figure(level, 1)}</i>" for level in levels)])
    return rows


def _cell(record: ResultRecord | None, css: str) -> str:
    if record is None or record.value is None:
        return "–"
    spread = f"<small>{record.interval.low:.1f}–{record.interval.high:.1f}</small>" if record.interval else ""
    return css.format(f"{record.value:.1f}") + spread
