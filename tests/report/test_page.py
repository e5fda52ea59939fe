"""The templates: what they escape, number and embed, and that a name which is not there is an error."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from fake_run import make_run
from jinja2 import UndefinedError

from unifashion_pl.metrics.records import ResultRecord
from unifashion_pl.report import build_report, page
from unifashion_pl.report.page import ENVIRONMENT, Page, render
from unifashion_pl.report.tables import Results

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' onload='alert(3)' {{ 7 * 7 }} {% include 'style.css' %}"
#: Words with a meaning of their own, and names of files: in these a reader would refuse the markup.
FIXED = {"direction", "kind", "unit", "key", "id", "reference", "target", "target_shown", "truth", "files", "file", "protocol"}


class Tags(HTMLParser):
    """Names of tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def spoilt(value: Any, name: str = "") -> Any:
    """Every text with markup behind it."""
    if isinstance(value, str):
        return value if name in FIXED else value + HOSTILE
    if isinstance(value, list):
        return [spoilt(item, name) for item in value]
    if isinstance(value, dict):
        return {key: spoilt(item, key) for key, item in value.items()}
    return value


def spoil(run: Path) -> None:
    """Markup in every text of every file of a run, as far as its readers take it."""
    for path in run.rglob("*.jsonl"):
        lines = [spoilt(json.loads(line)) for line in path.read_text().splitlines()]
        for line in lines:
            if "dataset" in line:
                line["dataset"] = line["dataset"].removesuffix(HOSTILE)
            if "top" in line:
                line["top"] = [[key.removesuffix(HOSTILE), score] for key, score in line["top"]]
            if "targets" in line:
                line["targets"] = [key.removesuffix(HOSTILE) for key in line["targets"]]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for path in run.rglob("results.json"):
        records = [
            {**spoilt(record), "weights": HOSTILE, "commit": HOSTILE, "dataset": HOSTILE}
            for record in json.loads(path.read_text())
        ]
        for number, record in enumerate(records):
            record["metric"] = record["metric"].removesuffix(HOSTILE) if number % 2 else record["metric"]
            record["protocol"] += HOSTILE if number % 5 == 0 else ""
        path.write_text(json.dumps(records))
    for path in run.rglob("metrics.csv"):
        head, rest = path.read_text().split("\n", 1)
        names = [
            name if name in ("epoch", "step") else '"' + (name + HOSTILE).replace('"', '""') + '"' for name in head.split(",")
        ]
        path.write_text(",".join(names) + "\n" + rest)
    for path in run.rglob("config.yaml"):
        path.write_text(
            path.read_text().replace("phase", f'"{HOSTILE.replace(chr(34), "")}"#') + f"extra: {json.dumps(HOSTILE)}\n"
        )


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = make_run(tmp_path_factory.mktemp("runs") / "a<b>&\"'")
    spoil(run)
    return build_report([run], run.parent / "r.html").read_text(encoding="utf-8")


def test_no_text_of_a_run_becomes_markup_or_template(hostile_page: str) -> None:
    found = Tags()
    found.feed(hostile_page)
    assert hostile_page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 200
    assert "<script" not in hostile_page
    assert "onerror=alert(2)&gt;" in hostile_page
    assert not {name for name in found.attributes if name.startswith("on")}
    assert found.tags == {
        *("html", "head", "meta", "title", "style", "body", "main", "header", "nav", "ol", "ul", "li", "h1", "h2", "h3", "h4", "p", "a"),
        *("b", "i", "span", "small", "div", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "code"),
        *("section", "figure", "figcaption", "article", "img", "svg", "line", "circle", "path", "text"),
    }  # fmt: skip
    assert "{{ 7 * 7 }}" in hostile_page
    assert " 49 " not in hostile_page


def templates() -> Iterator[tuple[str, str]]:
    for file in (files("unifashion_pl.report") / "templates").iterdir():
        yield file.name, file.read_text(encoding="utf-8")


def test_nothing_switches_escaping_off() -> None:
    for name, text in templates():
        for word in ("|safe", "| safe", "autoescape", "Markup", "|tojson", "|xmlattr", "|urlize"):
            assert word not in text, f"{name}: {word}"
        assert not name.endswith(".j2") or ENVIRONMENT.get_template(name).name == name, "every template compiles"
    for source in Path(page.__file__).parent.glob("*.py"):
        assert "Markup" not in source.read_text(), source.name


def test_a_name_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'view' is undefined"):
        render("curves.html")


def test_captions_are_numbered_apart_and_anew_on_every_page() -> None:
    one = Page()
    assert [one.number(kind) for kind in ("Table", "Figure", "Table", "Table", "Figure")] == [1, 1, 2, 3, 2]
    records = [ResultRecord("Avg", 1.0, "percent", 9, "p(a=b)")]
    for _ in range(2):
        assert "<b>Table 1.</b>" in render("numbers.html", view=Results(records))


def test_pictures_are_embedded_or_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Page()
    (tmp_path / "a.PNG").write_bytes(b"picture")
    (tmp_path / "a.svg").write_bytes(b"<svg onload='x'/>")
    assert one.picture(tmp_path / "a.PNG") == "data:image/png;base64," + base64.b64encode(b"picture").decode()
    assert one.picture(tmp_path / "a.svg") is None
    assert one.picture(tmp_path / "b.jpg") is None
    monkeypatch.setattr(page, "LARGEST", 6)
    assert one.picture(tmp_path / "a.PNG") is None
    assert one.missing == ["a.svg", "b.jpg", "a.PNG"]
