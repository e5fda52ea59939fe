"""Learning curves as small charts: places in an SVG, so that a report needs no plotting library and no network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unifashion_pl.metrics.fashiongen import natural

Points = list[tuple[float, float]]
WIDTH, HEIGHT = 340.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 12.0, 12.0, 30.0
MOST_SERIES = 6
PERCENTAGES = ("R@", "Avg", "mean", "accuracy")


@dataclass
class Panel:
    """One chart: a title, a unit for the vertical axis and up to six named series."""

    title: str
    unit: str
    series: dict[str, Points]


@dataclass(frozen=True)
class Series:
    """A drawn series: name, last value, dots, the line through it, and under a moving average the raw line."""

    name: str
    last: str
    dots: Points
    line: str = ""
    raw: str = ""


@dataclass(frozen=True)
class Chart:
    """A panel in the coordinates of its SVG: height and number of every grid line, place and number of every tick."""

    title: str
    unit: str
    grid: list[tuple[float, str]]
    ticks: list[tuple[float, str]]
    series: list[Series]
    left: float = LEFT
    right: float = WIDTH - RIGHT
    base: float = HEIGHT - BOTTOM
    box: str = f"0 0 {WIDTH:g} {HEIGHT:g}"


def panels(columns: dict[str, Points]) -> list[Panel]:
    """Sort logged columns into charts: total loss, loss terms per stream, learning rate, validation metrics per group.

    Columns come as CSVLogger names them; ``_step`` and ``_epoch`` twins are one series (the denser one).
    """
    merged: dict[str, Points] = {}
    for name, points in columns.items():
        plain = name.removesuffix("_step") if name.endswith("_step") else name.removesuffix("_epoch")
        if len(points) > len(merged.get(plain, [])):
            merged[plain] = points
    groups: dict[str, dict[str, Points]] = {}
    for name, points in merged.items():
        group, _, leaf = name.rpartition("/")
        if name == "train/loss":
            group, leaf = "loss", "sum of all terms"
        elif name.startswith("lr"):
            group, leaf = "learning rate", name.removeprefix("lr").removeprefix("-") or "all"
        groups.setdefault(group, {})[leaf] = points
    order = sorted(groups, key=lambda g: (g != "loss", not g.startswith("train"), not g.startswith("val"), g))
    made = [_panel(group, groups[group]) for group in order]
    return [panel for panel in made if panel.series]


def _panel(group: str, series: dict[str, Points]) -> Panel:
    """At most six series, the ones named first; a metric group's counts (``n``, ``tied``) are no curves."""
    kept = sorted((item for item in series.items() if item[0] not in ("n", "tied")), key=lambda item: natural(item[0]))
    shown = dict(kept[:MOST_SERIES])
    title, unit = group.capitalize(), ""
    if group == "loss":
        title = "Total training loss"
    elif group.startswith("train/"):
        title = f"Loss terms, {group.removeprefix('train/')}"
    elif group.startswith("val/"):
        title = f"Validation, {group.removeprefix('val/').replace('/', ' ')}"
        unit = "%" if all(any(word in name for word in PERCENTAGES) for name in shown) else ""
    return Panel(title, unit, shown)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Centred moving average; shorter at both ends."""
    half = window // 2
    parts = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [math.fsum(part) / len(part) for part in parts]


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
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def chart(panel: Panel) -> Chart:
    """Everything of a panel at its place."""
    points = [p for series in panel.series.values() for p in series]
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
    x_ticks, y_ticks = nice_ticks(x_low, x_high), nice_ticks(*_range(points))
    x_high = max(x_high, x_low + 1)

    def place(p: tuple[float, float]) -> tuple[float, float]:
        across = (p[0] - x_low) / (x_high - x_low)
        up = (min(max(p[1], y_ticks[0]), y_ticks[-1]) - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    grid = [(place((x_low, t))[1], number(t)) for t in y_ticks]
    ticks = [(place((t, y_ticks[0]))[0], number(t)) for t in x_ticks if x_low <= t <= x_high]
    drawn = [
        _drawn(name, number(s[-1][1]), [place(p) for p in s], [place(p) for p in _calm(s)]) for name, s in panel.series.items()
    ]
    return Chart(panel.title, panel.unit, grid, ticks, drawn)


def _range(points: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Vertical range: percentages and losses start at 0; single spikes above the 99th percentile are cut off."""
    values = sorted(p[1] for p in points)
    top = values[-1] if len(values) < 100 else values[int(0.99 * (len(values) - 1))] * 1.05
    low = min(0.0, values[0])
    return low, top if top > low else low + 1.0


def _calm(series: Points) -> Points:
    """The moving average of a long series; nothing of a short one."""
    if len(series) < 40:
        return []
    values = smooth([p[1] for p in series], max(3, len(series) // 25))
    return list(zip([p[0] for p in series], values))


def _drawn(name: str, last: str, series: Points, calm: Points) -> Series:
    """A long series as a faint raw line under its moving average, a short one with a dot for every value."""

    def path(points: Points) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)

    if len(series) == 1:
        return Series(name, last, series)
    if not calm:
        return Series(name, last, series if len(series) <= 12 else [], path(series))
    thin = max(1, len(series) // 400)
    return Series(name, last, [], path(calm[::thin]), path(series[::thin]))
