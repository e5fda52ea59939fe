"""Curves, tables and the run folder's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from unifashion_pl.metrics.records import Interval, ResultRecord
from unifashion_pl.report.curves import Panel, chart, nice_ticks, panels, smooth
from unifashion_pl.report.html import Page
from unifashion_pl.report.runfolder import Evaluation
from unifashion_pl.report.tables import add_numbers, number_rows


def test_panels_group_columns() -> None:
    p = [(0.0, 1.0), (1.0, 0.5)]
    columns = {"train/loss_step": p, "train/loss_epoch": p[:1], "train/pairs/itc": p, "train/pairs/itm": p, "lr-AdamW": p,
               "val/fashiongen/t2i/R@10": p, "val/fashiongen/t2i/R@1": p, "val/fashiongen/t2i/R@5": p}  # fmt: skip
    made = {panel.title: list(panel.series) for panel in panels(columns)}
    assert list(made) == ["Total training loss", "Loss terms, pairs", "Validation, fashiongen t2i", "Learning rate"]
    assert made["Validation, fashiongen t2i"] == ["R@1", "R@5", "R@10"]
    assert made["Loss terms, pairs"] == ["itc", "itm"]


@pytest.mark.parametrize(
    "series", [[(0.0, 1.0)], [(5.0, 0.0), (5.0, 0.0)], [(float(i), 1e6 if i == 7 else 1.0) for i in range(500)]]
)
def test_charts_of_odd_series_have_finite_coordinates(series: list[tuple[float, float]]) -> None:
    svg = chart(Panel("t", "", {"a": series}))
    assert "nan" not in svg
    assert "inf" not in svg


def test_ticks_cover_the_range() -> None:
    for low, high in ((0.0, 1.0), (3.2, 3.3), (-5.0, 120.0), (2.0, 2.0), (0.0, 1e-7)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 2 <= len(ticks) <= 7


def test_moving_average_keeps_constants_and_length() -> None:
    assert smooth([2.0] * 9, 4) == [2.0] * 9
    assert smooth([0.0, 3.0, 0.0], 3) == [1.5, 1.0, 1.5]


def test_caption_metrics_are_scaled_and_absent_ones_explained() -> None:
    records = [
        ResultRecord("CIDEr", 1.695, "raw", 10, "coco(x)", interval=Interval(1.5, 1.9, 0.95, "b")),
        ResultRecord("METEOR", None, "raw", 10, "coco(x)", implementation="n/a: no Java"),
    ]
    rows = number_rows(records, {})
    assert rows[1][1] == "<b>169.50</b>"
    assert rows[1][2] == "150.0–190.0"
    assert "no Java" in rows[2][1]


def test_robustness_is_folded_and_small_raw_numbers_keep_their_digits() -> None:
    recall = ResultRecord(
        "t2i/R@1", 50.0, "percent", 10, "fashiongen_full(n=10)", interval=Interval(30.0, 70.0, 0.95, "wilson")
    )
    change = ResultRecord(
        "score_change", -0.0241, "raw", 10, "robustness/negation/x", interval=Interval(-0.031, -0.017, 0.95, "b")
    )
    page = Page()
    add_numbers(page, Evaluation("test", Path("test"), [recall, change], {}))
    table, robustness = "".join(page.parts).split("<details")
    assert "R@1" in table
    assert "score change" not in table
    assert "-0.024" in robustness
    assert "-0.031 – -0.017" in robustness
