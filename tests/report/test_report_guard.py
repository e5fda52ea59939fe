"""Numbers that read gallery captions: the floor beside them, and red labels where the captions may know the queries."""

from __future__ import annotations

from types import SimpleNamespace

from unifashion_pl.evaluation.composed import audit_records
from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report.guard import Guard
from unifashion_pl.report.page import render
from unifashion_pl.report.tables import Results

HEAD = "fashioniq/original/ref-kept"
REASON = "leaked: gallery captions are not known to be query-blind: no captioner (3, e.g. d1); every caption needs one"


def records(mark: str = "", why: str = "", floor: bool = True, verdict: str = "ok") -> list[ResultRecord]:
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


def page_of(found: list[ResultRecord]) -> str:
    return render("numbers.html", view=(Results(found), Guard(found)))


def test_floor_stands_beside_caption_assisted_numbers() -> None:
    text = page_of(records())
    assert "<td>51.25</td><td>+3.75</td>" in text
    assert "<td>51.25</td><td>+10.25</td>" in text
    assert 'class="flag"' not in text
    assert "<td>0.710</td><td>0.500</td><td>0.012</td><td>ok</td>" in text


def test_unsafe_captions_are_labelled_in_red_with_the_reason() -> None:
    text = page_of(records(",captions=leaked", f"; {REASON}", verdict="refuse"))
    assert text.count('<b class="flag">leaked</b>') >= 4
    assert text.count(f'class="note refused">{REASON}<') == 1
    assert '<b class="flag">refuse</b>' in text
    assert '<b class="flag">suspicious</b>' in page_of(records(",captions=suspicious"))


def test_a_missing_floor_is_said() -> None:
    assert '<b class="flag">no floor</b>' in page_of(records(floor=False))


def test_without_captions_there_is_no_guard() -> None:
    guard = Guard(records()[:1])
    assert (guard.assisted, guard.audits) == ([], [])
    assert 'class="guard"' not in page_of(records()[:1])


def test_reasons_and_verdicts_are_escaped() -> None:
    text = page_of(records(",captions=leaked", "; leaked: <script>x</script>", verdict="<b>refuse"))
    assert "leaked: &lt;script&gt;x&lt;/script&gt;" in text
    assert '<b class="flag">&lt;b&gt;refuse</b>' in text
    assert "<script" not in text
