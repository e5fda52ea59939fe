"""Learning curves as inline SVG: small multiples, drawn here so that a report needs no plotting library and no network."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

Points = list[tuple[float, float]]
WIDTH, HEIGHT = 340.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 12.0, 12.0, 30.0
COLOURS = 6


@dataclass
class Panel:
    """One chart: a title, a unit for the vertical axis and up to six named series."""

    title: str
    unit: str
    series: dict[str, Points]


def panels(columns: dict[str, Points]) -> list[Panel]:
    """Sort logged columns into charts: total loss, loss terms per stream, learning rate, validation metrics per group.

    Columns come as CSVLogger names them; ``_step`` and ``_epoch`` twins are one series (the denser one).
    """
    merged: dict[str, Points] = {}
    for name, points in columns.items():
        plain = re.sub(r"_(step|epoch)$", "", name)
        if len(points) > len(merged.get(plain, [])):
            merged[plain] = points
    groups: dict[str, dict[str, Points]] = {}
    for name, points in merged.items():
        group, _, leaf = name.rpartition("/")
        if name == "train/loss":
            group, leaf = "loss", "sum of all terms"
        elif name.startswith("lr"):
            group, leaf = "learning rate", re.sub(r"^lr-?", "", name) or "all"
        groups.setdefault(group, {})[leaf] = points
    order = sorted(groups, key=lambda g: (g != "loss", not g.startswith("train"), not g.startswith("val"), g))
    made = [_panel(group, groups[group]) for group in order]
    return [panel for panel in made if panel.series]


def _panel(group: str, series: dict[str, Points]) -> Panel:
    """At most six series, the ones named first; a metric group's counts (``n``, ``tied``) are no curves."""
    kept = {name: points for name, points in series.items() if name not in ("n", "tied")}
    kept = dict(sorted(kept.items(), key=lambda item: _natural(item[0]))[:COLOURS])
    if group == "loss":
        return Panel("Total training loss", "", kept)
    if group.startswith("train/"):
        return Panel(f"Loss terms, {group.removeprefix('train/')}", "", kept)
    if group.startswith("val/"):
        percent = all(re.search(r"R@|Avg|mean|accuracy", name) for name in kept)
        return Panel(f"Validation, {group.removeprefix('val/').replace('/', ' ')}", "%" if percent else "", kept)
    return Panel(group.capitalize(), "", kept)


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Centred moving average; shorter at both ends."""
    half = window // 2
    out = []
    for i in range(len(values)):
        part = values[max(0, i - half) : i + half + 1]
        out.append(math.fsum(part) / len(part))
    return out


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover [low, high].

    >>> nice_ticks(0.0, 97.0)
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = max((high - low) / count, 1e-300)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """Compact axis and legend numbers.

    >>> number(12000), number(0.25), number(0.00003)
    ('12k', '0.25', '3e-5')
    """
    if value == 0:
        return "0"
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    if abs(value) < 0.001:
        return re.sub(r"\.?0*e-0?", "e-", f"{value:.2e}")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def chart(panel: Panel) -> str:
    """A figure with the SVG and a legend that gives the last value of every series."""
    points = [p for series in panel.series.values() for p in series]
    x_ticks = nice_ticks(min(p[0] for p in points), max(p[0] for p in points), 4)
    y_ticks = nice_ticks(*_range(panel, points))
    x_low, x_high = min(p[0] for p in points), max(max(p[0] for p in points), min(p[0] for p in points) + 1)

    def place(p: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + (p[0] - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        y = (
            HEIGHT
            - BOTTOM
            - (min(max(p[1], y_ticks[0]), y_ticks[-1]) - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)
        )
        return x, y

    marks = [_gridline(place((x_low, t))[1], t) for t in y_ticks]
    marks += [_tick(place((t, y_ticks[0]))[0], t) for t in x_ticks if x_low <= t <= x_high]
    for index, series in enumerate(panel.series.values()):
        marks += _lines(series, index, place)
    label = f"{panel.title}: " + ", ".join(f"{name} ends at {number(s[-1][1])}" for name, s in panel.series.items())
    svg = f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(label)}">{"".join(marks)}</svg>'
    unit = f' <span class="unit">{escape(panel.unit)}</span>' if panel.unit else ""
    return f'<figure class="panel"><h4>{escape(panel.title)}{unit}</h4>{svg}{_legend(panel)}</figure>'


def _range(panel: Panel, points: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Vertical range: percentages and losses start at 0; single spikes above the 99th percentile are cut off."""
    values = sorted(p[1] for p in points)
    top = values[-1] if len(values) < 100 else values[int(0.99 * (len(values) - 1))] * 1.05
    low = min(0.0, values[0])
    return low, top if top > low else low + 1.0


def _gridline(y: float, value: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>'
    )


def _tick(x: float, value: float) -> str:
    base = HEIGHT - BOTTOM
    return (
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>'
        f'<text x="{x:.1f}" y="{base + 16}" text-anchor="middle">{number(value)}</text>'
    )


def _lines(series: Points, index: int, place: object) -> list[str]:
    """The series; a long one as a faint raw line under its moving average."""
    assert callable(place)
    if len(series) == 1:
        x, y = place(series[0])
        return [f'<circle class="s{index}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>']

    def path(points: Points) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in map(place, points))

    if len(series) < 40:
        dots = "".join(f'<circle class="s{index}" cx="{x:.1f}" cy="{y:.1f}" r="1.8"/>' for x, y in map(place, series))
        return [f'<path class="line s{index}" d="{path(series)}"/>{dots if len(series) <= 12 else ""}']
    window = max(3, len(series) // 25)
    calm = list(zip([p[0] for p in series], smooth([p[1] for p in series], window)))
    thin = max(1, len(series) // 400)
    return [
        f'<path class="raw s{index}" d="{path(series[::thin])}"/>',
        f'<path class="line s{index}" d="{path(calm[::thin])}"/>',
    ]


def _legend(panel: Panel) -> str:
    items = "".join(
        f'<li><i class="s{index}"></i>{escape(name)} <b>{number(series[-1][1])}</b></li>'
        for index, (name, series) in enumerate(panel.series.items())
    )
    return f'<ul class="legend">{items}</ul>'
