"""The first screen: figures with chance and interval, pictures beside them, settings and curves later."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_run import interval, make_run

from unifashion_pl.metrics.lines import PersonLine, Repainted
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report import build_report
from unifashion_pl.report.headlines import CAPTIONED, drawn, headlines
from unifashion_pl.report.page import render
from unifashion_pl.report.runfolder import Evaluation, read_run


@pytest.fixture(scope="module")
def tests(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Evaluation]]:
    run = read_run(make_run(tmp_path_factory.mktemp("runs") / "demo"))
    return [(evaluation.label, evaluation) for evaluation in run.evaluations]


def evaluation(*records: ResultRecord, folder: Path = Path("none"), **lines: list[PersonLine]) -> Evaluation:
    return Evaluation("", folder, [*records], dict(lines))  # type: ignore[arg-type]


def test_each_task_has_the_paper_s_figure_with_its_chance_and_pictures(tests: list[tuple[str, Evaluation]]) -> None:
    found = {task.kind: task for task in headlines(tests)}
    assert list(found) == ["retrieval", "composed", "captions"]
    told = {kind: (f.record.metric, f.record.value, f.chance, f.run) for kind, task in found.items() for f in task.figures}
    assert told["retrieval"] == ("t2i/R@1", 44.0, 1.0, "")
    assert told["composed"] == ("mean/R@10", pytest.approx(68.6), pytest.approx(10 / 2.4), "")
    assert told["captions"] == ("caption/colour_accuracy", 81.2, 21.0, "")
    assert [len(task.lines) for task in found.values()] == [1, 1, CAPTIONED]
    assert found["retrieval"].lines[0].direction == "t2i"


def test_halves_of_queries_other_galleries_and_chance_are_no_headline() -> None:
    asked = "fashioniq/{}/ref-kept/image(score={},text=and)"
    others = [
        ResultRecord("mean/R@10", 1.0, "percent", 9, asked.format("original", "text-only")),
        ResultRecord("mean/R@10", 2.0, "percent", 9, asked.format("union", "itc")),
        ResultRecord("mean/R@10", 3.0, "percent", 9, asked.format("original", "itc") + "/chance"),
        ResultRecord("mean/R@10", None, "percent", 9, asked.format("original", "itc")),
    ]
    assert headlines([("", evaluation(*others))]) == []
    right = ResultRecord("mean/R@10", 4.0, "percent", 9, asked.format("original", "itc"))
    (task,) = headlines([("", evaluation(*others, right))])
    assert task.figures[0].record is right
    assert task.figures[0].chance == 3.0


def test_where_the_first_figure_was_not_measured_the_next_one_stands_there() -> None:
    record = ResultRecord("t2i/R@10", 9.0, "percent", 20, "fashiongen_full(text=name_description)", interval=interval(9.0, 2))
    (task,) = headlines([("", evaluation(record))])
    assert task.figures[0].meaning.endswith("first 10 of the whole gallery")
    text = render("learned.html", learned=[task])
    assert "9.0&nbsp;%" in text
    assert "7.0–11.0" in text
    assert "by chance" not in text
    assert "No pictures of it were kept." in text


def test_try_on_stands_beside_what_is_reached_without_the_garment_and_several_runs_by_their_names() -> None:
    protocol = "user/tryon{}(sampler=few,seed=0)"
    records = [
        ResultRecord("SSIM", 0.8, "raw", 9, protocol.format("")),
        ResultRecord("SSIM", 0.6, "raw", 9, protocol.format("/garment-withheld")),
    ]
    made = Repainted(file="painted.png", guidance=1.0)
    line = {"dataset": "user", "prompt": "", "given": {}, "made": {"tryon": made}, "sampler": "few", "seed": 0, "shown": True}
    lines = [PersonLine(id=f"p{i}", paired=i > 0, **line) for i in range(6)]
    one, other = evaluation(*records, edits=lines), evaluation(*records)
    (task,) = headlines([("a", one), ("b", other)])
    assert [figure.run for figure in task.figures] == ["a", "b"]
    assert task.figures[0].instead is records[1]
    assert task.view is one
    assert len(task.lines) == 3
    assert all(line.paired for line in task.lines)
    text = render("learned.html", learned=[task])
    assert text.count("<b>0.800</b>") == 2
    assert "with the garment withheld 0.600" in text


def test_the_draw_is_by_a_hash_and_not_by_the_order(tests: list[tuple[str, Evaluation]]) -> None:
    view = next(one for _, one in tests if one.shown("captions"))
    first = drawn(view, "captions")
    view.predictions["captions"].reverse()
    assert drawn(view, "captions") == first


def test_on_the_page_it_comes_before_everything_else(tmp_path: Path) -> None:
    page = build_report([make_run(tmp_path / "demo")], tmp_path / "report.html").read_text("utf-8")
    places = [
        page.index('<section class="learned"'),
        page.index("<nav"),
        page.index('id="numbers"'),
        page.index('id="curves"'),
    ]
    assert places == sorted(places)
    assert page.index('id="configuration"') > page.index('id="curves"')
    assert page.index('class="facts"') > page.index('id="configuration"')
