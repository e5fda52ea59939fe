"""Rewritings of modifying texts."""

from __future__ import annotations

import re

import pytest

from unifashion_pl.data.rewriting import PARAPHRASES, REWRITINGS, negate, paraphrase, statements
from unifashion_pl.data.texts import EVALUATION, modifying_text
from unifashion_pl.wardrobe.catalogue import SIZES, fiq_parts
from unifashion_pl.wardrobe.products import COLOURS as SPOKEN

TEXTS = [
    "Is red and has long sleeves",
    "has no sleeves",
    "Is sleeveless and longer, without a pattern",
    "has three buttons and more red",
    "is gray in color",
    "V-neck and is plain",
    "Has black and white stripes and fewer buttons",
    "red instead of blue",
    "it is darker and it has a collar",
]


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("verb", "Has a collar and is red", "With a collar and is red"),
        ("verb", "with dots", "has dots"),
        ("verb", "has no sleeves and without a pattern", "without sleeves and has no pattern"),
        ("verb", "has no longer sleeves", "has no longer sleeves"),
        ("verb", "is a dress with dots", "is a dress with dots"),
        ("pronoun", "Is red and it has dots", "It is red and has dots"),
        ("pronoun", "it's red", "is red"),
        ("phrase", "is sleeveless and has long sleeves", "has no sleeves and is long-sleeved"),
        ("phrase", "is blue in color and longer", "is blue and is longer"),
        ("spelling", "more colorful, grey", "more colourful, gray"),
        ("order", "Is red and has black and white stripes, longer", "Longer, has black and white stripes and is red"),
        ("order", "V-neck and is plain", "Is plain and V-neck"),
        ("order", "is not longer and more red", "is not longer and more red"),
    ],
)
def test_paraphrases(rule: str, text: str, expected: str) -> None:
    assert paraphrase(text, rule) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("is red", "is not red"),
        ("Has stripes", "Has no stripes"),
        ("has a collar and is longer", "has no collar and is not longer"),
        ("is red and white", "is not red and not white"),
        ("has three buttons", "does not have three buttons"),
        ("has longer sleeves", "does not have longer sleeves"),
        ("the sleeves are longer", "the sleeves are not longer"),
        ("has stripes that are red", "has no stripes that are red"),
        ("it's longer", "it's not longer"),
        ("without buttons, isn't red", "with buttons, is red"),
        ("red instead of blue", "not red instead of blue"),
        ("", ""),
    ],
)
def test_denials(text: str, expected: str) -> None:
    assert negate(text) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_paraphrases_deny_nothing_and_denials_change_every_statement(text: str) -> None:
    for rule in (*PARAPHRASES, "all"):
        assert (" not " in f" {paraphrase(text, rule)} ".replace("not as many", "")) is False
    before, after = text.lower().replace(",", " and").split(" and "), negate(text).lower().replace(",", " and").split(" and ")
    assert len(before) == len(after)
    assert all(a != b for a, b in zip(before, after))


@pytest.mark.parametrize("text", [t for t in TEXTS if "color" not in t and "V-neck" not in t])
def test_rules_that_swap_are_their_own_inverse(text: str) -> None:
    for rule in ("spelling", "order"):
        assert paraphrase(paraphrase(text, rule), rule) == text
    for statement in statements(text)[0]:
        assert paraphrase(paraphrase(statement, "phrase"), "phrase") == statement


def test_statements_keep_every_letter() -> None:
    for text in TEXTS:
        parts, joints = statements(text)
        assert len(parts) == len(joints) + 1
        assert "".join(p + j for p, j in zip(parts, [*joints, ""])) == text


def test_every_rewriting_is_named_and_unknown_ones_are_refused() -> None:
    assert set(REWRITINGS) == {*(f"paraphrase-{rule}" for rule in PARAPHRASES), "paraphrase-all", "negation"}
    assert REWRITINGS["paraphrase-verb"]("has dots") == paraphrase("has dots", "verb") == "with dots"
    with pytest.raises(ValueError, match="unknown paraphrase rule 'rhyme'.*; known are phrase"):
        paraphrase("is red", "rhyme")


def test_rewritings_keep_what_the_wardrobe_speaks_of() -> None:
    noun = re.compile(rf"\b(?:{'|'.join(SPOKEN)}|stripes|checks|dots|flowers|lettering|buttons|neck|collar)\b")
    parts = [p for p in fiq_parts(SIZES["tiny"], 0) if p.split != "test"]
    texts = [modifying_text(t.texts, EVALUATION, "") for p in parts for t in p.triplets]
    for rewrite in REWRITINGS.values():
        for text in texts:
            words = [sorted(noun.findall(x.lower().replace("gray", "grey"))) for x in (text, rewrite(text))]
            assert words[0] == words[1]
    assert all(negate(text) != text != paraphrase(text) for text in texts)
