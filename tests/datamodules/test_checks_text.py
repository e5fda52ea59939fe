"""The findings of data check for a terminal."""

from __future__ import annotations

from typing import Any

from unifashion_pl.datamodules.checks import CheckReport, Duplicates, SplitReport, Unusable
from unifashion_pl.datamodules.checks_text import report_text


def split(**changes: Any) -> SplitReport:
    values = {"name": "fashioniq/val", "kind": "queries", "expected": 2017, "usable": 2009, "published": 2017, **changes}
    expected, usable = values["expected"], values["usable"]
    bad = [Unusable(f"B{i:09d}", "reference", "empty file", 1) for i in range(expected - usable)]
    groups = {"dress": {"expected": expected, "usable": usable}}
    return SplitReport(**values, groups=groups, unusable=bad, notes=["a note"])


def test_the_text_for_a_terminal_is_short_where_much_is_wrong() -> None:
    many = [Duplicates([f"a{i}", f"b{i}"], ["d/train"]) for i in range(50)]
    report = CheckReport("fashioniq", "/x", [split(usable=17), split(kind="gallery")], [], None, "images", "CDLA", many)
    lines = report_text(report).splitlines()
    assert lines[:3] == ["fashioniq in /x: INCOMPLETE", "  variant: images", "  licence: CDLA"]
    table = lines.index("  split  kind     expected  usable")
    assert lines[table + 1 : table + 3] == [
        "  val    queries     2,017      17  as many as published",
        "  val    gallery     2,017   2,009  as many as published",
    ]
    assert "  val, queries: 2,000 of 2,017 are lost (dress 2,017 -> 17)" in lines
    assert "    2,000 files: 2,000 empty file" in lines
    assert "    … and 1,980 more files" in lines
    assert "  equal pixels: 50 groups of ids, 0 of them in training and evaluation" in lines
    assert "    … and 30 more groups" in lines
    assert lines.count("    note: a note") == 1
    assert lines[-2] == "    unifashion data shards fashioniq --root /x --out SHARDS --allow-missing"
    assert len(lines) < 75
    content = report.as_dict()
    assert len(content["splits"][0]["unusable"]) == 2000
    assert len(content["duplicates"]) == 50
    assert content["complete"] is False
