"""Tables of numbers: units, groups, chance and flags."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_run import composed_records

from unifashion_pl.evaluation.composed import audit_records
from unifashion_pl.metrics.records import Interval, ResultRecord
from unifashion_pl.report.page import render
from unifashion_pl.report.tables import Results, column_order, cut_of, flags, interval_text, standard_error, value_text

COMPOSED = "fashioniq/original/ref-kept/image(score=itc,text=and)"


def shown(records: list[ResultRecord]) -> str:
    return render("numbers.html", view=Results(records))


def test_caption_metrics_are_scaled_and_absent_ones_explained() -> None:
    cider = ResultRecord("CIDEr", 1.695, "raw", 10, "coco(x)", interval=Interval(1.5, 1.9, 0.95, "b"))
    absent = ResultRecord("METEOR", None, "raw", 10, "coco(x)", implementation="n/a: no <Java>")
    assert value_text(cider) == "169.50"
    assert interval_text(cider) == "150.0–190.0"
    text = shown([cider, absent])
    assert "<b>169.50</b>" in text
    assert '<span class="dim">n/a: no &lt;Java&gt;</span>' in text


def test_robustness_is_folded_and_small_raw_numbers_keep_their_digits() -> None:
    recall = ResultRecord(
        "t2i/R@1", 50.0, "percent", 10, "fashiongen_full(n=10)", interval=Interval(30.0, 70.0, 0.95, "wilson")
    )
    change = ResultRecord(
        "score_change", -0.0241, "raw", 10, "robustness/negation/x", interval=Interval(-0.031, -0.017, 0.95, "b")
    )
    table, robustness = shown([recall, change]).split("<details")
    assert "R@1" in table
    assert "score change" not in table
    assert "-0.024" in robustness
    assert "-0.031 – -0.017" in robustness


def test_a_number_stands_beside_the_chance_of_its_own_dataset_and_protocol() -> None:
    one = ResultRecord("Avg", 50.0, "percent", 10, COMPOSED, dataset="a")
    level = replace(one, value=5.0, protocol=COMPOSED + "/chance")
    results = Results([one, replace(level, dataset="b"), level, replace(one, dataset="c")])
    assert [results.chance(r) for r in results.composed] == [5.0, None]


def test_neighbours_of_one_dataset_and_protocol_stand_together_and_say_the_dataset_where_there_are_several() -> None:
    one = ResultRecord("i2t/R@1", 50.0, "percent", 10, "fashiongen_full(n=10)", dataset="first")
    other = replace(one, dataset="second", n_expected=20, weights="random")
    text = shown([one, replace(one, metric="t2i/R@1"), other])
    assert [len(group) for group in Results([one, replace(one, metric="t2i/R@1"), other]).plain] == [2, 1]
    assert "first: <b>fashiongen_full</b>" in " ".join(text.split())
    assert '10<span class="dim">/20</span>' in text
    assert 'second: <b>fashiongen_full</b> <span class="dim">n=10</span> <b class="flag">random weights</b>' in " ".join(
        text.split()
    )
    assert "first:" not in shown([one])


def test_composed_query_halves_and_chance() -> None:
    results = Results(composed_records())
    assert [half for half, _, _ in results.matrix("original")] == [
        "itc",
        "text-only",
        "text-blank",
        "image-only",
        "image-similarity",
    ]
    assert results.columns[:2] == ["mean/R@10", "mean/R@50"]
    # the numbers of fake_run: 62 + 3 × 2.2 for the whole query, 36 + 3 × 2.2 for its stronger half, 10 / 2.4 by chance
    assert (
        results.gain == "In mean/R@10 the composed query reaches 68.6, its stronger half (text + blank image) 42.6, chance 4.2."
    )
    assert [round(level, 2) if level else level for level in results.levels("union")][:2] == [4.17, 20.83]
    assert results.levels("original")[-1] is None
    text = shown(composed_records())
    assert '<tr class="whole"><th scope="row">composed query</th><td>68.6<small>62.6–74.6</small></td>' in text
    assert "All 90 composed-retrieval numbers" in text


def test_gain_needs_a_whole_query_and_a_half() -> None:
    records = [r for r in composed_records() if r.under.half == "itc"]
    assert Results(records).gain == ""
    assert Results([]).gain == ""


def test_metrics_without_a_cut_and_hostile_ones() -> None:
    assert [cut_of(name) for name in ("dress/R@10", "Avg", "R@", "R@-1", "R@" + "9" * 5000, "R@²")] == [
        10,
        None,
        None,
        None,
        None,
        None,
    ]
    assert column_order(["R@" + "9" * 5000, "mean/R@50", "mean/R@10"])[:2] == ["mean/R@10", "mean/R@50"]


def test_flags_name_what_is_wrong() -> None:
    record = ResultRecord(
        "Avg", 1.0, "percent", 9, COMPOSED.replace("original", "original[18/19]"), weights="not trained for this"
    )
    assert flags(record) == ["shortened", "not trained for this"]
    assert flags(replace(record, protocol=COMPOSED, weights=None)) == []


# numbers that read gallery captions: the floor beside them, and red labels where the captions may know the queries

HEAD = "fashioniq/original/ref-kept"
REASON = "leaked: gallery captions are not known to be query-blind: no captioner (3, e.g. d1); every caption needs one"


def assisted(mark: str = "", why: str = "", floor: bool = True, verdict: str = "ok") -> list[ResultRecord]:
    made = [ResultRecord("mean/R@10", 40.0, "percent", 90, f"{HEAD}/image(score=itc,text=and)")]
    for score, value in (("caption", 55.0), ("both", 61.5)):
        protocol = f"{HEAD}/{score}(score=itc,text=and{mark})"
        made.append(ResultRecord("mean/R@10", value, "percent", 90, protocol, implementation=f"x{why}"))
    if floor:
        made.append(
            ResultRecord("mean/R@10", 51.25, "percent", 90, f"{HEAD}/caption(score=bm25,text=and{mark})", implementation="BM25")
        )
    audit = SimpleNamespace(finding=verdict, error=0.012, auc=0.71, control=0.5)
    return made + audit_records({"dress": audit}, {"dress": {str(i): "" for i in range(300)}})  # type: ignore[dict-item]


def test_floor_stands_beside_caption_assisted_numbers() -> None:
    text = shown(assisted())
    assert "<td>51.25</td><td>+3.75</td>" in text
    assert "<td>51.25</td><td>+10.25</td>" in text
    assert 'class="flag"' not in text
    assert "<td>0.710</td><td>0.500</td><td>0.012</td><td>ok</td>" in text


def test_unsafe_captions_are_labelled_in_red_with_the_reason() -> None:
    text = shown(assisted(",captions=leaked", f"; {REASON}", verdict="refuse"))
    assert text.count('<b class="flag">leaked</b>') >= 4
    assert text.count(f'class="note refused">{REASON}<') == 1
    assert '<b class="flag">refuse</b>' in text
    assert '<b class="flag">suspicious</b>' in shown(assisted(",captions=suspicious"))


def test_a_missing_floor_is_said() -> None:
    assert '<b class="flag">no floor</b>' in shown(assisted(floor=False))


def test_without_captions_there_is_no_guard() -> None:
    results = Results(assisted()[:1])
    assert (results.assisted, results.audits) == ([], [])
    assert 'class="guard"' not in shown(assisted()[:1])


def test_reasons_and_verdicts_are_escaped() -> None:
    text = shown(assisted(",captions=leaked", "; leaked: <script>x</script>", verdict="<b>refuse"))
    assert "leaked: &lt;script&gt;x&lt;/script&gt;" in text
    assert '<b class="flag">&lt;b&gt;refuse</b>' in text
    assert "<script" not in text


@pytest.mark.parametrize(("said", "error"), [("0.012", 0.012), ("nan", None), ("<b>", None), ("", None)])
def test_audits_of_before_the_field_say_verdict_and_error_in_prose(said: str, error: float | None) -> None:
    told = f"held-out bag of words: refuse; standard error without leak {said}"
    old = ResultRecord("dress/caption-AUC", 0.71, "raw", 300, "fashioniq/original/caption-audit(text=and)", implementation=told)
    assert standard_error(old) == error
    assert f'<td>{f"{error:.3f}" if error else "–"}</td><td><b class="flag">refuse</b></td>' in shown([old])
