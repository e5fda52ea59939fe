"""Learning curves as charts."""

from __future__ import annotations

import pytest

from unifashion_pl.report.curves import Panel, nice_ticks, number, panels, smooth
from unifashion_pl.report.page import render


def drawn(panel: Panel) -> str:
    return render("curves.html", view=[panel])


def test_panels_group_columns() -> None:
    p = [(0.0, 1.0), (1.0, 0.5)]
    columns = {"train/loss_step": p, "train/loss_epoch": p[:1], "train/pairs/itc": p, "train/pairs/itm": p, "lr-AdamW": p,
               "val/fashiongen/t2i/R@10": p, "val/fashiongen/t2i/R@1": p, "val/fashiongen/t2i/R@5": p}  # fmt: skip
    made = {panel.title: list(panel.series) for panel in panels(columns)}
    assert list(made) == ["Total training loss", "Loss terms, pairs", "Validation, fashiongen t2i", "Learning rate"]
    assert made["Validation, fashiongen t2i"] == ["R@1", "R@5", "R@10"]
    assert made["Loss terms, pairs"] == ["itc", "itm"]


def test_names_with_digits_of_any_kind_are_put_in_order() -> None:
    p = [(0.0, 1.0)]
    (panel,) = panels({f"x/a{digit}": p for digit in ("10", "2", "²", "٣")})
    assert list(panel.series)[:3] == ["a2", "a٣", "a10"]


@pytest.mark.parametrize(
    "series", [[(0.0, 1.0)], [(5.0, 0.0), (5.0, 0.0)], [(float(i), 1e6 if i == 7 else 1.0) for i in range(500)]]
)
def test_charts_of_odd_series_have_finite_coordinates(series: list[tuple[float, float]]) -> None:
    svg = drawn(Panel("t", "", {"a": series}))
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_chart_draws_points_where_the_axes_put_them() -> None:
    made = Panel("t", "%", {"a": [(0.0, 0.0), (10.0, 50.0), (20.0, 100.0)]})
    (series,) = made.drawn
    assert series.dots == [(42.0, 160.0), (185.0, 86.0), (328.0, 12.0)]
    assert series.line == "M42.0 160.0L185.0 86.0L328.0 12.0"
    assert series.raw == ""
    assert {number(level): y for y, level in made.grid} == {"0": 160.0, "25": 123.0, "50": 86.0, "75": 49.0, "100": 12.0}
    svg = drawn(Panel("a <t>", "%", {"x<y>": [(0.0, 0.0), (1.0, 2.0)]}))
    assert 'aria-label="a &lt;t&gt;: x&lt;y&gt; ends at 2"' in svg
    assert svg.count("<circle") == 2


def test_a_long_series_has_a_faint_line_under_its_average() -> None:
    (series,) = Panel("t", "", {"a": [(float(i), float(i % 2)) for i in range(1000)]}).drawn
    assert series.dots == []
    assert series.raw.count("L") == series.line.count("L") == 499
    assert series.raw != series.line


def test_ticks_cover_the_range() -> None:
    for low, high in ((0.0, 1.0), (3.2, 3.3), (-5.0, 120.0), (2.0, 2.0), (0.0, 1e-7)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 2 <= len(ticks) <= 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-4, "1e-4"),
        (-2.5e-4, "-2.5e-4"),
        (1.234e-10, "1.23e-10"),
        (0.0, "0"),
        (999.4, "999"),
        (999.6, "1000"),
        (1234.5, "1234"),
        (25000.0, "25k"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_moving_average_keeps_constants_and_length() -> None:
    assert smooth([2.0] * 9, 4) == [2.0] * 9
    assert smooth([0.0, 3.0, 0.0], 3) == [1.5, 1.0, 1.5]


def test_what_was_measured_once_is_a_number_and_no_dot() -> None:
    once = Panel("Validation", "%", {"R@1": [(120.0, 41.5)], "R@5": [(120.0, 80.0)]})
    text = drawn(once)
    assert "<svg" not in text
    assert "<dt>R@1</dt><dd>41.5</dd>" in text
    some = drawn(Panel("Validation", "%", {"R@1": [(60.0, 20.0), (120.0, 41.5)], "R@5": [(120.0, 80.0)]}))
    assert some.count("<circle") == 2
    assert "R@5 <b>80</b>" in " ".join(some.split()).replace("</i>", "")
