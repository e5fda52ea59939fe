from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from unifashion_pl.data.captions import read_captions, read_library
from unifashion_pl.data.texts import EVALUATION, Draw, modifying_text, number_of, phrases_text, product_text


@pytest.mark.parametrize(
    ("name", "description", "rule", "expected"),
    [
        ("Dress", "Red. Long.", "name_description", "Dress. Red. Long."),
        ("Dress.", " Red. ", "name_description", "Dress. Red."),
        ("", "Red.", "name_description", "Red."),
        ("Dress", "", "name_description", "Dress"),
        ("Dress", "Red.", "description", "Red."),
        ("Dress", "Red.", "name", "Dress"),
    ],
)
def test_product_text(name: str, description: str, rule: str, expected: str) -> None:
    assert product_text(name, description, rule) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("epoch", "name", "description", "expected"),
    [
        (None, "Dress", "Red.", "Red."),
        (0, "Dress", "Red.", "Red."),
        (1, "Dress", "Red.", "Dress"),
        (1, "", "Red.", "Red."),
        (2, "Dress", "", "Dress"),
    ],
)
def test_alternating_texts(epoch: int | None, name: str, description: str, expected: str) -> None:
    assert product_text(name, description, "alternate", Draw(0, epoch)) == expected


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match="title"):
        product_text("a", "b", "title")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (["is red.", "has sleeves?"], "Is red and has sleeves"),
        (["  ,is red", " is long "], "Is red and is long"),
        (["", "is shorter"], "Is shorter"),
        (["is shorter", "  . "], "Is shorter"),
        (["", ""], ""),
    ],
)
def test_evaluation_always_joins_in_order(captions: list[str], expected: str) -> None:
    assert modifying_text(captions, EVALUATION, "k") == expected


def test_the_four_training_forms_are_equally_frequent() -> None:
    seen = Counter(modifying_text(["is red", "has sleeves"], Draw(0, 0), f"dress-train-{i:05d}") for i in range(4000))
    assert set(seen) == {"Is red and has sleeves", "Has sleeves and is red", "Is red", "Has sleeves"}
    assert all(900 < n < 1100 for n in seen.values())


def test_the_choice_depends_on_seed_epoch_and_key_only() -> None:
    texts = [modifying_text(["a", "b"], Draw(3, 7), f"k{i}") for i in range(50)]
    assert texts == [modifying_text(["a", "b"], Draw(3, 7), f"k{i}") for i in range(50)]
    for other in (Draw(4, 7), Draw(3, 8)):
        assert texts != [modifying_text(["a", "b"], other, f"k{i}") for i in range(50)]


def test_one_empty_text_never_leaves_a_dangling_and() -> None:
    assert {modifying_text(["", "is red"], Draw(0, e), "k") for e in range(20)} == {"Is red"}


def test_comma_rule() -> None:
    assert modifying_text(["is red", "is long"], EVALUATION, "k", "comma") == "Is red, is long"


def test_phrases_are_shuffled_in_training_only() -> None:
    phrases = ["red top", "", "short sleeves ", "round neck"]
    assert phrases_text(phrases, EVALUATION, "k") == "red top, short sleeves, round neck"
    orders = {phrases_text(phrases, Draw(0, e), "k") for e in range(60)}
    assert len(orders) == 6
    assert phrases == ["red top", "", "short sleeves ", "round neck"]


def test_numbers_of_names() -> None:
    assert number_of("0") == 0
    assert number_of("007") != number_of("7") == 7
    assert 0 <= number_of("B008BHCT58") < 2**63
    assert number_of("B008BHCT58") == number_of("B008BHCT58") != number_of("B008BHCT59")


def library(path: Path, *entries: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")
    return path


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
