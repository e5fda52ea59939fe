"""The page as a whole: self-contained, complete, safe against what texts hold, the same bytes for the same run."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_run import make_run

from unifashion_pl.report import build_report

VOID = {"meta", "img", "br", "line", "circle", "path", "hr", "link"}


class Checker(HTMLParser):
    """Open tags must be closed in order; collects addresses, ids and in-page links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(fake_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_report([fake_run], tmp_path_factory.mktemp("out") / "sub" / "report.html").read_text(encoding="utf-8")


def test_well_formed_and_self_contained(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    for address in checker.addresses:
        assert address.startswith(("data:image/", "#", "https://arxiv.org/")), address[:80]
    assert {a[1:] for a in checker.addresses if a.startswith("#")} <= set(checker.ids)
    assert "<script" not in page
    assert "url(" not in page


def test_all_sections_and_the_toy_notice(page: str) -> None:
    titles = re.findall(r"<h2 [^>]*><span[^>]*>\d+</span>([^<]*)", page)
    assert titles == [
        "Results",
        "Published numbers",
        "Retrieval",
        "Composed retrieval",
        "Captions",
        "Generated images",
        "Learning curves",
        "Configuration",
        "Provenance",
    ]
    assert "Toy data." in page


def test_texts_are_escaped(page: str) -> None:
    assert "with pockets &lt;b&gt;&amp;" in page
    assert "with pockets <b>" not in page


def test_targets_are_framed_and_late_ones_follow(page: str) -> None:
    assert page.count('class="tile target') >= 10
    assert 'class="tile target late"' in page


def test_toy_runs_never_fill_a_published_cell(page: str) -> None:
    assert "not run (toy data)" in page
    assert "reproduced</td>" not in page


def test_origins_of_the_numbers_stand_in_one_table(page: str) -> None:
    part = page.partition('id="provenance"')[2]
    assert '<th scope="row">phase1</th><td>fashiongen_full</td><td>phase1_joint</td><td><code>0.1.0</code></td>' in part
    assert ">weights<" not in part, "no record has a hash"


def test_same_run_same_bytes(fake_run: Path, page: str, tmp_path: Path) -> None:
    assert build_report([fake_run], tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_missing_pictures_leave_a_place_holder(fake_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(fake_run, copy)
    shutil.rmtree(copy / "phase2/version_0/test/images")
    text = build_report([copy], tmp_path / "r.html").read_text(encoding="utf-8")
    assert 'class="nopic' in text
    assert "missing from the run folder" in text


def test_curves_alone_make_a_report(fake_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "only"
    run.mkdir()
    shutil.copy(fake_run / "phase1/version_0/metrics.csv", run / "metrics.csv")
    text = build_report([run], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Learning curves" in text
    assert "Toy data." not in text
    assert "not run (no evaluation)" in text


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run folder given"):
        build_report([], tmp_path / "r.html")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        build_report([tmp_path / "nothing"], tmp_path / "r.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither metrics.csv nor results.json"):
        build_report([tmp_path / "empty"], tmp_path / "r.html")
