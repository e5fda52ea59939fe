"""Ranks of prediction files: from 1, one meaning; older lines are read as what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unifashion_pl.metrics.lines import (
    KINDS,
    SCHEMA,
    CaptionLine,
    ComposedLine,
    ImageToText,
    Line,
    PersonLine,
    PictureLine,
    Repainted,
    RetrievalLine,
    TextToImage,
    current,
    image_name,
    place,
    read_lines,
    read_predictions,
    write_lines,
)
from unifashion_pl.reading import FormatError


def test_todays_lines_stay_as_they_are() -> None:
    line = ComposedLine(key="q", category="c", reference="r", target="t", text="", rank=3, ties=1, ranks={"a": (3, 1)})
    written = line.written()
    assert written["schema"] == SCHEMA
    assert current(written) == written
    assert place(line) == 4


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"protocol": "fashiongen_full", "rank": 4, "ties": 2}, {"protocol": "fashiongen_full", "rank": 5, "ties": 2}),
        ({"direction": "t2i", "rank": 6, "ties": 2}, {"direction": "t2i", "rank": 5, "ties": 2}),
        (
            {"rank": 6, "ties": 1, "ranks": {"x": [5, 1]}, "halves": {"text-only": [0, 0]}},
            {"rank": 6, "ties": 1, "ranks": {"x": [6, 1]}, "halves": {"text-only": [1, 0]}},
        ),
        (
            {"rank": 0, "ties": 0, "rewritten_rank": 3, "rewritten_ties": 1},
            {"rank": 1, "ties": 0, "rewritten_rank": 3, "rewritten_ties": 1},
        ),
        ({"id": "a caption"}, {"id": "a caption"}),
    ],
)
def test_older_lines_counted_from_0_some_with_their_ties(old: dict[str, object], new: dict[str, object]) -> None:
    assert current(old) == {**new, "schema": SCHEMA}


def test_rounds_of_older_dialogues() -> None:
    (one,) = current({"rounds": [{"reference": "r", "rank": 2, "ties": 2}]})["rounds"]
    assert (one["rank"], one["ties"]) == (1, 2)


def test_lines_of_a_later_version_are_refused() -> None:
    with pytest.raises(ValueError, match="schema 9"):
        current({"schema": 9, "rank": 1})


def test_image_names_are_safe_and_distinct() -> None:
    names = [image_name("a/b", key) for key in ("x/../y", "x_.._y", "ü" * 300, "ü" * 301, "plain")]
    assert len(set(names)) == 5
    assert all(name.endswith(".jpg") and "/" not in name and len(name) < 160 for name in names)


def test_lines_survive_writing(tmp_path: Path) -> None:
    lines = [{"id": "ä", "top": [["x", 0.5]]}, {"id": "b", "text": "line\nbreak\u2028and"}]
    write_lines(tmp_path / "a" / "x.jsonl", lines)
    assert read_lines(tmp_path / "a" / "x.jsonl") == lines
    assert read_lines(tmp_path / "none.jsonl") == []


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match=r"x.jsonl:2 is not a JSON object: Input data was truncated"):
        read_lines(tmp_path / "x.jsonl")


ANSWER: dict[str, Any] = {"dataset": "d", "key": "p", "targets": ["a"], "rank": 2, "ties": 1, "top": [("a", 0.5), ("b", 0.25)]}
EACH: list[Line] = [
    RetrievalLine(protocol="x", direction="i2t", draw=0, query="q", product="p", rank=1, ties=0, candidates=9),
    TextToImage(text="red", target_shown="a", **ANSWER),
    ImageToText(texts={"a": "red"}, **ANSWER),
    ComposedLine(
        dataset="d", key="q", category="c", reference="r", target="a", text="red", shown=True, rank=3, top=[("a", 0.5)]
    ),
    CaptionLine(id="a", hypothesis="red", reference="blue", words={"colour": ("red", None)}, scores={"METEOR": None}),
    PictureLine(id="a", kind="composed", prompt="red", seeds=[0], files=["a.png"], reference="given.jpg"),
    PersonLine(
        id="a",
        paired=True,
        prompt="",
        given={"person": "p.png"},
        made={"tryon": Repainted(file="m.png", guidance=1.0, scores={"SSIM": 0.5})},
        sampler="fast",
        seed=0,
    ),
]


@pytest.mark.parametrize("line", EACH, ids=lambda line: type(line).__name__)
def test_what_is_written_is_read_as_the_same_type(line: Line, tmp_path: Path) -> None:
    path = tmp_path / f"{line.file}.jsonl"
    write_lines(path, [line])
    assert read_predictions(path, line.file) == [line]
    assert type(line) in KINDS[line.file]


def test_empty_optional_fields_are_not_written_and_unknown_ones_are_not_read(tmp_path: Path) -> None:
    picture, person = EACH[-2].written(), EACH[-1].written()
    assert "truth" not in picture
    assert picture["reference"] == "given.jpg"
    del person["made"]["tryon"]["scores"]
    path = tmp_path / "edits.jsonl"
    write_lines(path, [{**person, "tops": {"image": []}}])
    (read,) = read_predictions(path, "edits")
    assert read.written() == person


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top": []}, "missing required field `top`"),
        ({"dataset": ""}, "missing required field `dataset`"),
        ({"rank": True}, "Expected `int`, got `bool`"),
        ({"rank": 0}, "Expected `int` >= 1"),
        ({"schema": None, "rank": True}, "Expected `int`, got `bool`"),
        ({"schema": None, "halves": {"text-only": [True, 0]}}, "Expected `int`, got `bool`"),
    ],
)
def test_lines_of_another_form_are_refused_by_file_line_and_field(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "composed.jsonl"
    line = {**EACH[3].written(), **change}
    write_lines(path, [{k: v for k, v in line.items() if not (k == "schema" and v is None)}])
    with pytest.raises(FormatError, match=rf"composed.jsonl:1 is not a line of composed: .*{message}"):
        read_predictions(path, "composed")


def test_older_files_are_read_as_todays_types(tmp_path: Path) -> None:
    path = tmp_path / "retrieval.jsonl"
    query = {"protocol": "x", "direction": "t2i", "draw": 0, "query": "q", "product": "p", "candidates": 9, "shown": False}
    write_lines(path, [{**query, "rank": 4, "ties": 2}, {"direction": "t2i", "text": "red", **ANSWER, "rank": 6}])
    first, second = read_predictions(path, "retrieval")
    assert isinstance(first, RetrievalLine)
    assert isinstance(second, TextToImage)
    assert (first.rank, first.ties, second.rank, second.ties) == (5, 2, 6, 1)
