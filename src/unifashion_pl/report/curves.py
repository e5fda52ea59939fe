"""Learning curves as small charts: places in an SVG, so that a report needs no plotting library and no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from unifashion_pl.metrics.fashiongen import natural

Points = list[tuple[float, float]]
WIDTH, HEIGHT = 340.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 12.0, 12.0, 30.0
MOST_SERIES = 6
PERCENTAGES = ("R@", "Avg", "mean", "accuracy")


@dataclass(frozen=True)
class Series:
    """A drawn series: name, last value, dots, the line through it, and under a moving average the raw line."""

    name: str
    last: str
    dots: Points
    line: str = ""
    raw: str = ""


@dataclass(frozen=True)
class Panel:
    """One chart: a title, a unit for the vertical axis and up to six named series; and where all of it lies in its SVG."""

    title: str
    unit: str
    series: dict[str, Points]
    left, right, base = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    box = f"0 0 {WIDTH:g} {HEIGHT:g}"

    @property
    def single(self) -> bool:
        """Whether no series has more than one value: numbers then, and no chart."""
        return all(len(points) == 1 for points in self.series.values())

    @cached_property
    def _across(self) -> list[float]:
        return sorted(x for points in self.series.values() for x, _ in points)

    @cached_property
    def _levels(self) -> list[float]:
        """Ticks upwards: percentages and losses start at 0; single spikes above the 99th percentile are cut off."""
        values = sorted(y for points in self.series.values() for _, y in points)
        top = values[-1] if len(values) < 100 else values[int(0.99 * (len(values) - 1))] * 1.05
        low = min(0.0, values[0])
        return nice_ticks(low, top if top > low else low + 1.0)

    def _place(self, x: float, y: float) -> tuple[float, float]:
        low, levels = self._across[0], self._levels
        across = (x - low) / (max(self._across[-1], low + 1) - low)
        up = (min(max(y, levels[0]), levels[-1]) - levels[0]) / (levels[-1] - levels[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    @property
    def grid(self) -> Points:
        """Height and value of every grid line."""
        return [(self._place(self._across[0], level)[1], level) for level in self._levels]

    @property
    def ticks(self) -> Points:
        """Place and value of every tick."""
        low, high = self._across[0], max(self._across[-1], self._across[0] + 1)
        ticks = nice_ticks(low, self._across[-1])
        return [(self._place(tick, self._levels[0])[0], tick) for tick in ticks if low <= tick <= high]

    @cached_property
    def drawn(self) -> list[Series]:
        """A long series as a faint raw line under its moving average, a short one with a dot for every value, a single value as its number alone."""
        return [self._drawn(name, points) for name, points in self.series.items()]

    def _drawn(self, name: str, points: Points) -> Series:
        places, last = [self._place(x, y) for x, y in points], number(points[-1][1])
        if len(points) < 40:
            dots = places if 1 < len(points) <= 12 else []
            return Series(name, last, dots, _path(places) if len(points) > 1 else "")
        values = smooth([y for _, y in points], max(3, len(points) // 25))
        calm = [self._place(x, value) for (x, _), value in zip(points, values)]
        thin = max(1, len(points) // 400)
        return Series(name, last, [], _path(calm[::thin]), _path(places[::thin]))


def _path(points: Points) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


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
