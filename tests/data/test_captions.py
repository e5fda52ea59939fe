"""Caption libraries: what a line has to say, and which libraries are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unifashion_pl.data.captions import LeakError, check_provenance, provenance_faults, read_captions, read_library


def library(path: Path, *entries: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")
    return path


BLIND = {"captioner": "caption head", "weights_hash": "0f", "template": "describe the dress", "decoding": {"beams": 1}}
BLIND |= {"inputs": ["image", "category"]}
GOOD = {"image": "A", "caption": "\na red  dress", "inputs": ["image", "category"]}


def test_captions_are_read_and_cleaned(tmp_path: Path) -> None:
    path = library(
        tmp_path / "c.jsonl", GOOD, {**GOOD, "image": "B", "inputs": ["image", "keywords"], "keywords_split": "train"}
    )
    assert read_captions(path) == {"A": "a red dress", "B": "a red dress"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image": "A", "caption": "x"}, "no inputs"),
        ({**GOOD, "inputs": ["image", "query"]}, "made from query"),
        ({**GOOD, "text_guidance": "is red"}, "text_guidance"),
        ({**GOOD, "inputs": ["image", "keywords"], "keywords_split": "val"}, "split 'val'"),
        ({"caption": "x"}, "image and caption"),
    ],
)
def test_captions_that_may_have_seen_a_query_are_refused(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    path = library(tmp_path / "c.jsonl", entry)
    with pytest.raises(ValueError, match=message):
        read_captions(path)
    if "image" in entry:
        assert read_captions(path, allow_unsafe=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"image": "A", "caption": null}',
            r"c.jsonl:2 is not an object with image and caption: .*got `null` - at `\$.caption`",
        ),
        ('{"image": ["A"], "caption": "x"}', r"c.jsonl:2 is not .* - at `\$.image`"),
        ('{"image": "A", "caption": "x", "inputs": {"image": 1}}', r"c.jsonl:2 is not .* - at `\$.inputs`"),
        ('["A", "x"]', "c.jsonl:2 is not an object with image, caption and inputs: Expected `object`"),
        ('{"image": "A", "capt', "c.jsonl:2 is not an object .*malformed"),
        ('{"image": ' + "[" * 100_000, "c.jsonl:2 is not an object .*nested too deeply"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = library(tmp_path / "c.jsonl", {**GOOD, "image": "B", "caption": "a\u2028b"})
    path.write_text("\ufeff" + path.read_text("utf-8") + line + "\r\n", "utf-8")
    with pytest.raises(ValueError, match=message):
        read_captions(path, allow_unsafe=True)


def test_a_gallery_library_has_exactly_the_gallery_s_ids(tmp_path: Path) -> None:
    path = library(tmp_path / "c.jsonl", GOOD, {**GOOD, "image": "B"})
    assert read_library(path, expected=["A", "B"], required=["inputs"])
    with pytest.raises(ValueError, match="no caption: C"):
        read_library(path, required=["inputs"], expected=["A", "B", "C"])
    with pytest.raises(ValueError, match="no image of the gallery: B"):
        read_library(path, required=["inputs"], expected=["A"])
    with pytest.raises(ValueError, match="second caption for A"):
        read_captions(library(tmp_path / "d.jsonl", GOOD, GOOD))
    with pytest.raises(FileNotFoundError):
        read_captions(tmp_path / "no.jsonl")


def test_one_rule_of_provenance_for_reading_and_evaluating(tmp_path: Path) -> None:
    assert provenance_faults(BLIND) == []
    path = tmp_path / "c.jsonl"
    path.write_text('{"image": "a", "caption": "x", "inputs": ["image"]}\n')
    with pytest.raises(LeakError, match=r"c.jsonl:1: .*no captioner; no weights_hash; no template; no decoding"):
        read_library(path)
    assert read_library(path, required=("inputs",))["a"]["caption"] == "x"


def test_provenance_is_checked_for_every_caption_of_a_gallery() -> None:
    good = {
        "image": "a",
        "caption": "a red dress",
        "captioner": "model",
        "weights_hash": "0f",
        "template": "describe",
        "decoding": {"beams": 1},
        "inputs": ["image", "category", "keywords"],
        "keywords_split": "train",
    }
    assert check_provenance([good], ["a"]) is None
    released = {"image": "a", "caption": "a red dress", "text_guidance": "is red"}
    for bad, reason in (
        (released, "text_guidance is not empty"),
        ({**good, "inputs": ["image", "query"]}, "made from query"),
        ({**good, "keywords_split": "val"}, "keywords of split 'val'"),
        ({**good, "weights_hash": ""}, "no weights_hash"),
        ({**good, "image": "b"}, "not in the gallery"),
    ):
        with pytest.raises(LeakError, match=reason):
            check_provenance([bad], ["a"])
        assert reason in check_provenance([bad], ["a"], allow_unsafe=True)
