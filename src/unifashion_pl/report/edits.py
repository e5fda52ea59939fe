"""Repainted persons in a report: what the model was given, what it painted, and what it paints when something is withheld."""

from __future__ import annotations

from html import escape

from unifashion_pl.metrics.lines import Line
from unifashion_pl.report.html import Page, sanitized
from unifashion_pl.report.runfolder import Evaluation

#: Prefix of a variant -> what stands left of its pictures, and the caption of the figure.
KINDS = {
    "tryon": (
        ("person", "garment"),
        "Try-on: the greyed region is painted anew in the garment of the photo. Nothing is pasted back, so what lies outside of the region "
        "was painted too",
    ),
    "design": (
        ("person", "sketch"),
        "Design: the region is painted from strokes and phrases",
    ),
}
MADE = {
    "tryon": "painted",
    "tryon/garment-withheld": "garment withheld",
    "design": "painted",
    "design/text-withheld": "text withheld",
    "design/sketch-withheld": "sketch withheld",
}


def add_edits(page: Page, evaluation: Evaluation, limit: int = 8) -> None:
    """Try-on and design rows: given pictures, painted ones, controls, truth."""
    shown = evaluation.shown("edits")
    for paired in (True, False):
        lines = [line for line in shown if line["paired"] is paired][:limit]
        for kind, (inputs, text) in KINDS.items():
            group = [line for line in lines if any(name.split("/")[0] == kind for name in line["made"])]
            if not group:
                continue
            page.add(f'<div class="rows">{"".join(_row(page, evaluation, line, kind, inputs) for line in group)}</div>')
            made = next(made for name, made in group[0]["made"].items() if name.split("/")[0] == kind)
            scale = group[0].get("garment_guidance", 1.0)  # lines before 2026-11-28 have none
            beside = [f"garment guidance {scale:g}"] if scale != 1.0 else []
            settings = [f"sampler {group[0]['sampler']}", f"guidance {made['guidance']:g}", *beside, f"seed {group[0]['seed']}"]
            end = "" if paired else " Another person's garment: there is no truth to compare with."
            page.add(page.caption("Figure", f"{text}; {escape(', '.join(settings))}.{end}"))


def _row(page: Page, evaluation: Evaluation, line: Line, kind: str, inputs: tuple[str, ...]) -> str:
    tiles = [page.tile(evaluation.picture(line["given"][name]), name, "given") for name in inputs if name in line["given"]]
    for name, made in line["made"].items():
        if name.split("/")[0] == kind:
            tiles.append(page.tile(evaluation.picture(made["file"]), MADE.get(name, name), ""))
    tiles += [
        page.tile(evaluation.picture(line["given"][name]), name, "given")
        for name in ("truth", "worn before")
        if name in line["given"]
    ]
    ask = sanitized(line["prompt"], 220) if kind == "design" else sanitized(line["id"], 80)
    return f'<div class="row"><div class="ask"><p class="q">{ask}</p></div><div class="strip big">{"".join(tiles)}</div></div>'
