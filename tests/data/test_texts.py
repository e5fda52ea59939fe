from __future__ import annotations

from collections import Counter

import pytest

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
