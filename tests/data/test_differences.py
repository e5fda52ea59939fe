"""What differs, and how it is said."""

from __future__ import annotations

import hashlib
import random

import pytest

from unifashion_pl.data.differences import COLOUR, FURTHER, SLEEVES, asked_text, differences, modifying_texts, phrases_of
from unifashion_pl.wardrobe.catalogue import fiq_parts, spec_of


def test_the_wardrobe_says_what_it_always_said() -> None:
    """Its texts are a published data set: the hash is that of the rules before they had tables."""
    said = hashlib.sha256()
    for seed in range(12):
        for part in fiq_parts(spec_of("tiny"), seed):
            for triplet in part.triplets:
                said.update(repr(triplet).encode())
    assert said.hexdigest() == "b3113c5f7d6d66ff935323781472d1418409f564433d5a00586f14feea9d75bd"


@pytest.mark.parametrize(
    ("name", "shown", "wanted", "asked", "absolute", "relative"),
    [
        ("Color", "blue", "red", "in red", {"is red", "is red in color"}, {"red instead of blue", "more red"}),
        ("sleeve", "short", "long", "with long sleeves", {"has long sleeves"}, {"longer sleeves"}),
        ("sleeves", "long", "none", "without sleeves", {"is sleeveless", "has no sleeves"}, {"without sleeves"}),
        ("sleeve_length", "long", "elbow", "with elbow sleeves", {"has elbow sleeves"}, {"elbow sleeves instead of long ones"}),
        ("length", "long", "short", "short", {"is short"}, {"shorter"}),
        (
            "collar_type",
            "round",
            "{pointed}",
            "with {pointed} collar type",
            {"collar type is {pointed}", "has {pointed} collar type"},
            {"collar type is {pointed} instead of round", "{pointed} collar type instead of round"},
        ),
    ],
)  # fmt: skip
def test_an_attribute_is_spoken_of_by_its_name(
    name: str, shown: str, wanted: str, asked: str, absolute: set[str], relative: set[str]
) -> None:
    a, b, phrases = {name: shown}, {name: wanted}, {name: phrases_of(name)}
    assert asked_text(a, b, [name], phrases) == asked
    texts = [modifying_texts(a, b, [name], phrases, random.Random(seed)) for seed in range(40)]
    assert ({first for first, _ in texts}, {second for _, second in texts}) == (absolute, relative)


def test_several_differences_are_all_named_in_any_order() -> None:
    a, b = {"colour": "red", "sleeve": "long", "fit": "slim"}, {"colour": "blue", "sleeve": "short", "fit": "slim"}
    assert differences(a, b, ("colour", "fit", "sleeve")) == ["colour", "sleeve"]
    phrases = {"colour": COLOUR, "sleeve": SLEEVES, "fit": FURTHER}
    assert asked_text(a, b, ["colour", "sleeve"], phrases) == "in blue and with short sleeves"
    texts = [modifying_texts(a, b, ["colour", "sleeve"], phrases, random.Random(seed)) for seed in range(20)]
    assert all("blue" in first and "short sleeves" in first and "shorter sleeves" in second for first, second in texts)
    assert len({first.startswith("has short") for first, _ in texts}) == 2
    with pytest.raises(ValueError, match="there is nothing to say"):
        modifying_texts(a, a, [], phrases, random.Random(0))
