"""Pictures of a report: result rows of text and composed retrieval, captions beside the truth, generated images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from textwrap import shorten

from unifashion_pl.metrics.lines import Line, place
from unifashion_pl.report.explain import choose, explain, gallery_sizes, halves_reached, rank_summary
from unifashion_pl.report.html import Page, sanitized
from unifashion_pl.report.runfolder import Evaluation

SHOWN = 7
CHOICE = (
    "Best and worst by the target’s rank, random ones by a hash of their names, all from the {shown} queries with pictures, "
    "themselves drawn by a hash."
)
KINDS = {
    "reconstruction": "Generation from an image's own queries and its caption",
    "composed": "Generation from a reference image and a modifying text",
}


def tile(page: Page, evaluation: Evaluation, dataset: str, key: str, note: str, target: bool, late: bool = False) -> str:
    """One result: thumbnail, rank and score; the target gets a frame and says so, set apart when it came after a gap."""
    css = (" target" if target else "") + (" late" if late else "")
    picture = page.picture(evaluation.image(dataset, key), f"{'target ' if target else ''}{key}")
    return f'<figure class="tile{css}">{picture}<figcaption>{note}</figcaption></figure>'


def strip(page: Page, evaluation: Evaluation, line: Line, targets: set[str]) -> str:
    """The best results of a query in order; a target beyond them follows after a gap, with its rank."""
    dataset = line["dataset"]
    tiles = []
    top = line["top"][:SHOWN]
    for rank, (key, score) in enumerate(top, 1):
        hit = key in targets
        note = f"<b>{rank}</b> {'target' if hit else f'{score:.2f}'}"
        tiles.append(tile(page, evaluation, dataset, key, note, hit))
    if not targets & {key for key, _ in top} and line.get("target_shown"):
        note = f"<b>{place(line)}</b> target"
        tiles.append(tile(page, evaluation, dataset, line["target_shown"], note, True, late=True))
    return f'<div class="strip">{"".join(tiles)}</div>'


def verdict(line: Line, size: int | None = None) -> str:
    """Rank of the target among how many; ``size`` where the line does not say."""
    size = line.get("candidates") or size
    among = f" of {size:,}" if size else ""
    css = "good" if place(line) <= SHOWN else "dim"
    return f'<span class="{css}">target at rank {place(line):,}{among}</span>'


def why(line: Line) -> str:
    """The explanation of a rank as a small list."""
    items = "".join(f"<li>{sentence}</li>" for sentence in explain(line))
    return f'<ul class="why">{items}</ul>' if items else ""


def chosen_rows(lines: Sequence[Line], row: Callable[[Line], str]) -> str:
    """Best, worst and random queries under their titles; drawn ones that stand above are named, not shown twice."""
    parts = []
    for group in choose(lines):
        shown = "".join(row(line) for line in group.lines)
        again = "; ".join(
            f"“{escape(shorten(line['text'], 80, placeholder='…'))}” (rank {place(line):,})" for line in group.again
        )
        note = f'<p class="meta">Drawn too, shown above: {again}.</p>' if again else ""
        parts.append(f'<h4 class="choice">{group.title.capitalize()}</h4><div class="rows">{shown}</div>{note}')
    return "".join(parts)


def add_retrieval(page: Page, evaluation: Evaluation, limit: int = 8) -> None:
    """Text → image, then image → text."""
    lines = evaluation.shown("retrieval")
    texts = [line for line in lines if line["direction"] == "t2i"]
    if texts:

        def row(line: Line) -> str:
            head = f'<p class="q">{sanitized(line["text"], 220)}</p><p class="meta">{verdict(line)}</p>{why(line)}'
            return f'<div class="row"><div class="ask">{head}</div>{strip(page, evaluation, line, set(line["targets"]))}</div>'

        full = [line for line in evaluation.predictions["retrieval"] if line.get("protocol") == "fashiongen_full"]
        views = Counter(line["product"] for line in full if line["direction"] == "i2t")
        every = [line for line in full if line["direction"] == "t2i" and views[line["product"]]]
        sizes = [(line["candidates"], views[line["product"]]) for line in every]
        text = (
            "Text → image. Left the query; right the best images of the whole gallery with their scores, views of the right product "
            f"framed; the best of them counts. {CHOICE.format(shown=len(texts))} "
            + rank_summary([place(line) for line in every], sizes)
        )
        page.add(chosen_rows(texts, row), page.caption("Figure", text))
    images = [line for line in lines if line["direction"] == "i2t"][:limit]
    if images:
        page.add(f'<div class="cards">{"".join(_answers(page, evaluation, line) for line in images)}</div>')
        page.add(page.caption("Figure", "Image → text. The three best texts for an image; its own text is marked."))


def _answers(page: Page, evaluation: Evaluation, line: Line) -> str:
    items = "".join(
        f'<li class="{"target" if key in line["targets"] else ""}">{sanitized(line["texts"].get(key, key), 130)}</li>'
        for key, _ in line["top"][:3]
    )
    picture = page.picture(evaluation.image(line["dataset"], line["key"]), f"query image {line['key']}")
    return f'<article class="card">{picture}<div><ol>{items}</ol><p class="meta">{verdict(line)}</p></div></article>'


def add_composed_rows(page: Page, evaluation: Evaluation) -> None:
    """Reference + modifying text → results."""
    lines = evaluation.shown("composed")
    if not lines:
        return
    sizes = gallery_sizes(evaluation.records)

    def row(line: Line) -> str:
        reference = page.picture(evaluation.image(line["dataset"], line["reference"]), f"reference {line['reference']}")
        head = (
            f'<div class="ask with"><figure class="tile">{reference}<figcaption>reference</figcaption></figure>'
            f'<div><p class="q">+ {sanitized(line["text"], 220)}</p>'
            f'<p class="meta">{escape(line["category"])} · {verdict(line, sizes.get(line["category"]))}</p></div>{why(line)}</div>'
        )
        return f'<div class="row">{head}{strip(page, evaluation, line, {line["target"]})}</div>'

    every = evaluation.predictions["composed"]
    text = (
        "Composed retrieval. Left the reference image and the modifying text; right the best images of the category, the target framed. "
        f"The reference stays in the gallery. {CHOICE.format(shown=len(lines))} "
        + rank_summary([place(line) for line in every], [(sizes[x["category"]], 1) for x in every if x["category"] in sizes])
        + f" {halves_reached(evaluation.records)}"
    )
    page.add(chosen_rows(lines, row), page.caption("Figure", text))


def add_captions(page: Page, evaluation: Evaluation, limit: int = 12) -> None:
    """Generated captions beside the truth, with the plain-word checks."""
    lines = evaluation.shown("captions")[:limit]
    if not lines:
        return
    cards = []
    for line in lines:
        picture = page.picture(evaluation.image(line["dataset"], line["id"]), f"captioned image {line['id']}")
        cards.append(
            f'<article class="card">{picture}<div><p class="said">{sanitized(line["hypothesis"]) or "<i>(empty)</i>"}</p>'
            f'<p class="truth">{sanitized(line["reference"])}</p><p class="meta">{_words(line)}</p>{_styles(line)}</div></article>'
        )
    page.add(f'<div class="cards">{"".join(cards)}</div>')
    text = (
        "Captions. Generated text first, the dataset's text below it, then the first colour and garment each names; last what the "
        "model writes of the same picture in its other styles."
    )
    page.add(page.caption("Figure", text))


def _styles(line: Line) -> str:
    items = "".join(f"<li><b>{escape(style)}</b> {sanitized(text)}</li>" for style, text in line.get("styles", {}).items())
    return f'<ul class="styles">{items}</ul>' if items else ""


def _words(line: Line) -> str:
    parts = []
    for name, (said, true) in sorted(line.get("words", {}).items()):
        if true is None:
            continue
        right = said == true
        mark = f'<span class="{"good" if right else "bad"}">{escape(said or "none")}</span>'
        parts.append(f"{escape(name)} {mark}" + ("" if right else f" (is {escape(true)})"))
    return " · ".join(parts)


def add_images(page: Page, evaluation: Evaluation, limit: int = 12) -> None:
    """Generated images beside prompt, reference and truth."""
    lines = evaluation.shown("images")[:limit]
    kinds = list(dict.fromkeys(line["kind"] for line in lines))
    for kind in kinds:
        group = [line for line in lines if line["kind"] == kind]
        page.add(f'<div class="rows">{"".join(_generated(page, evaluation, line) for line in group)}</div>')
        sampler = ", ".join(f"{k} {group[0][k]}" for k in ("sampler", "steps", "guidance") if group[0].get(k) is not None)
        text = f"{KINDS.get(kind, escape(kind))}; {escape(sampler)}. The given pictures stand left, generated ones name their seed."
        page.add(page.caption("Figure", text))


def _generated(page: Page, evaluation: Evaluation, line: Line) -> str:
    tiles = []
    for name, label in (("reference", "reference"), ("truth", "truth")):
        if line.get(name):
            tiles.append(page.tile(evaluation.picture(line[name]), label, "given"))
    tiles += [page.tile(evaluation.picture(file), f"seed {seed}", "") for file, seed in zip(line["files"], line["seeds"])]
    ask = f'<div class="ask"><p class="q">{sanitized(line["prompt"], 220)}</p></div>'
    return f'<div class="row">{ask}<div class="strip big">{"".join(tiles)}</div></div>'
