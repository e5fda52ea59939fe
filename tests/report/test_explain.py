"""Chosen queries and the explanation of their ranks."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from fake_run import make_run
from msgspec import structs

from unifashion_pl.metrics.lines import ComposedLine, TextToImage
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report import build_report
from unifashion_pl.report.explain import chance_median, choose, explain, gallery_sizes, halves_reached, rank_summary, scores_of
from unifashion_pl.report.page import ENVIRONMENT, Page

BASE = "fashioniq/original/ref-kept/image(score=itc,text=and)"


def line(key: str, rank: int, **more: Any) -> ComposedLine:
    """A composed query; its list has ten others, the target at ``rank`` if it is among the first ten."""
    top = [(f"x{i}", round(0.9 - 0.05 * i, 3)) for i in range(10)]
    if rank < 10:
        top[rank] = ("goal", top[rank][1])
    return ComposedLine(key=key, rank=rank + 1, category="c", target="goal", reference="ref", text=key, top=top, **more)


def why(asked: ComposedLine | TextToImage) -> str:
    """The list that the page shows beneath a query."""
    return str(ENVIRONMENT.get_template("queries.html.j2").make_module({"page": Page()}).why(asked))  # type: ignore[attr-defined]


def test_best_and_worst_by_rank_random_by_name() -> None:
    lines = [line(f"q{i:02d}", i) for i in range(20)]
    best, worst, random = choose(lines)
    assert [x.key for x in best.lines] == ["q00", "q01", "q02"]
    assert [x.key for x in worst.lines] == ["q19", "q18", "q17"]
    drawn = {x.key for x in (*random.lines, *random.again)}
    assert len(drawn) == 4
    other = [structs.replace(x, rank=21 - x.rank) for x in reversed(lines)]
    again = choose(other)[2]
    assert {x.key for x in (*again.lines, *again.again)} == drawn, "the draw hangs on names alone"


def test_no_query_is_shown_twice_and_few_are_enough() -> None:
    for n in (1, 2, 4, 7, 12):
        groups = choose([line(f"q{i}", i) for i in range(n)])
        keys = [x.key for group in groups for x in group.lines]
        assert len(keys) == len(set(keys))
        shown = {x.key for group in groups[:-1] for x in group.lines}
        assert {x.key for x in groups[-1].again} <= shown
    assert choose([]) == []


def test_margin_decides_between_equal_ranks() -> None:
    close, clear = line("a", 0), line("b", 0)
    clear.top = [("goal", 0.9), ("x", 0.3)]
    assert [x.key for x in choose([close, clear], best=1, worst=1)[0].lines] == ["b"]


def test_score_competitor_and_margin() -> None:
    ahead = scores_of(line("q", 0))
    assert (ahead.target, ahead.rival, ahead.margin) == (0.9, 0.85, pytest.approx(0.05))
    behind = scores_of(line("q", 4))
    assert behind.margin == pytest.approx(-0.2)
    assert 'target scores 0.700, best competitor 0.900, margin <b class="bad">−0.200</b>' in why(line("q", 4))
    assert 'margin <b class="good">+0.050</b>' in why(line("q", 0))


def test_a_target_beyond_the_list_has_only_a_bound() -> None:
    found = scores_of(line("q", 57))
    assert (found.target, found.bound) == (None, 0.45)
    assert "target scores at most 0.450 (end of the list), best competitor 0.900" in why(line("q", 57))
    assert '<b class="bad">≤ −0.450</b>' in why(line("q", 57))


def test_views_of_a_product_do_not_compete() -> None:
    top = [("v1", 0.8), ("v2", 0.7), ("x", 0.5)]
    asked = TextToImage(dataset="d", key="p", text="t", rank=1, targets=["v1", "v2"], top=top)
    assert "best competitor 0.500" in why(asked)
    assert explain(asked) == []
    assert why(asked).count("<li>") == 1


def test_reference_ties_other_scores_and_halves_are_told_where_known() -> None:
    ranks = {
        "original/ref-kept/image": (6, 0),
        "original/ref-removed/image": (5, 0),
        "original/ref-kept/caption": (1, 1),
        "original/ref-kept/both": (3, 0),
    }
    asked = line("q", 5, ties=2, ranks=ranks, halves={"text-only": (31, 1), "image-only": (8, 0)})
    asked.top[1] = ("ref", asked.top[1][1])
    said = " | ".join(explain(asked))
    assert "the reference itself is at rank 2, before the target; without it the target is at 5" in said
    assert "2 others score the same" in said
    assert "captions alone 2, by image and caption 3" in said
    assert "text only 32, image + empty text 8" in said
    plain = " | ".join(explain(line("q", 5)))
    assert "half" not in plain
    assert "reference" not in plain


def test_gallery_size_follows_from_chance() -> None:
    records = [ResultRecord(f"dress/R@{k}", 100 * k / 3817, "percent", 9, BASE + "/chance") for k in (10, 50)]
    records += [ResultRecord("shirt/R@50", 100.0, "percent", 9, BASE + "/chance")]
    records += [ResultRecord("dress/R@10", 1.0, "percent", 9, BASE.replace("original", "union") + "/chance")]
    assert gallery_sizes(records) == {"dress": 3817}


def test_halves_over_all_queries_name_the_stronger_ones() -> None:
    values = {"itc": 60.0, "text-only": 20.0, "text-blank": 25.0, "image-only": 30.0, "image-similarity": 10.0}
    records = [
        ResultRecord(f"dress/R@{k}", value + k, "percent", 9, BASE.replace("itc", half))
        for half, value in values.items()
        for k in (10, 50)
    ]
    assert "dress 70.0 / 35.0 / 40.0" in halves_reached(records)
    assert halves_reached(records[:2]) == ""


def test_summary_stands_beside_chance() -> None:
    text = rank_summary([1, 1, 4, 41], [(101, 1)] * 4)
    assert "all 4 queries" in text
    assert "(chance 51)" in text
    assert "50\u00a0% stand at rank 1, 75\u00a0% among the first 10, the last one at 41" in text
    assert rank_summary([], []) == ""


@pytest.mark.parametrize(("candidates", "right"), [(1, 1), (7, 1), (7, 3), (30, 2), (5, 5)])
def test_chance_median_by_counting(candidates: int, right: int) -> None:
    best = sorted(min(places) + 1 for places in combinations(range(candidates), right))
    assert chance_median(candidates, right) == best[(len(best) - 1) // 2]


def test_page_shows_each_group_with_explanations(tmp_path: Path) -> None:
    text = build_report([make_run(tmp_path / "demo")], tmp_path / "r.html").read_text(encoding="utf-8")
    part = text.partition('id="composed"')[2].partition("<h2")[0]
    assert re.findall(r'<h4 class="choice">(\w+)', part) == ["Best", "Worst", "Random"]
    assert part.count('<ul class="why">') == 5
    assert "Drawn too, shown above:" in part
