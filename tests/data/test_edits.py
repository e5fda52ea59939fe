"""Edits among items: what differs, which items answer, and what is said of those that give none."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from unifashion_pl.data.edits import EditItem, Edits, chosen_attributes

COLOURS, SLEEVES = ("red", "blue", "green"), ("long", "short")


def item(number: int, category: str, text: str = "", **attributes: str) -> EditItem:
    return EditItem(f"k{number}", f"id{number}", category, attributes, text)


def shop() -> list[EditItem]:
    """Two of each colour and sleeve of two categories, and a hat that has no equal."""
    every = [(c, colour, sleeve) for c in ("shirt", "dress") for colour in COLOURS for sleeve in SLEEVES for _ in range(2)]
    items = [item(i, c, colour=colour, sleeve=sleeve) for i, (c, colour, sleeve) in enumerate(every)]
    return [*items, item(len(items), "hat", colour="red"), item(len(items) + 1, "shirt")]


def said(edits: Edits, number: int, seed: int) -> str:
    rng = random.Random(seed)
    return edits.text(edits.draw(number, rng), rng)


def test_reference_and_target_differ_in_what_is_said_and_in_nothing_else() -> None:
    items = shop()
    edits = Edits(items, ("colour", "sleeve"))
    seen: Counter[int] = Counter()
    for number in (i for i, usable in enumerate(edits.usable) if usable):
        for seed in range(20):
            edit = edits.draw(number, random.Random(seed))
            a, b = items[edit.reference], items[edit.target]
            assert a.category == b.category
            assert {n for n in ("colour", "sleeve") if a.attributes[n] != b.attributes[n]} == set(edit.names)
            equal = [i for i, one in enumerate(items) if (one.category, one.attributes) == (b.category, b.attributes)]
            assert list(edit.right) == equal
            assert {edits.answer(i) for i in equal} == {edit.answer}
            text = edits.text(edit, random.Random(seed))
            assert all(edit.wanted[n] in text or (n == "sleeve" and "er sleeves" in text) for n in edit.names)
            seen[len(edit.names)] += 1
    assert 0.65 < seen[1] / seen.total() < 0.85
    assert edits.usable == [True] * 24 + [False, False]
    assert edits.told() == (
        "24 of 26 rows are references (colour 24, sleeve 24); 1 are not: no row of their category has another colour or sleeve and "
        "is otherwise equal; 1 are not: they have no colour and no sleeve"
    )


def test_every_value_and_every_right_item_is_as_likely() -> None:
    items = [
        item(0, "shirt", colour="red"),
        item(1, "shirt", colour="blue"),
        *(item(i, "shirt", colour="green") for i in range(2, 6)),
    ]
    edits = Edits(items, ["colour"])
    drawn = Counter(edits.draw(0, random.Random(seed)).target for seed in range(4000))
    assert drawn[1] == pytest.approx(2000, abs=150)
    assert [drawn[i] for i in range(2, 6)] == pytest.approx([500] * 4, abs=100)


def test_the_category_differs_when_asked() -> None:
    items = shop()
    edits = Edits(items, ("colour", "sleeve"), changes=1, categories=True)
    texts = {said(edits, 0, seed) for seed in range(300)}
    assert {"the same in a dress", "a dress like this", "is a dress", "a dress instead of a shirt"} <= texts
    assert not any("dress" in said(Edits(items, ("colour",)), 0, seed) for seed in range(9))
    asked = edits.queries(0)
    assert Counter(edit.names for edit in asked) == {("colour",): 24, ("sleeve",): 24, ("category",): 24}
    for edit in asked:
        a, b = items[edit.reference], items[edit.target]
        assert (a.category != b.category) == (edit.names == ("category",))


def test_without_attributes_one_word_of_the_text_is_another() -> None:
    texts = ["A red silk dress.", "a blue silk dress", "a blue wool dress", "a hat", "", "a red silk dress"]
    edits = Edits([item(i, "all", text) for i, text in enumerate(texts)])
    assert edits.usable == [True, True, True, False, False, True]
    found = {(edit.reference, edit.target, edits.text(edit)) for edit in edits.queries(3)}
    assert found <= {(0, 1, "blue"), (1, 0, "red"), (1, 5, "red"), (1, 2, "wool"), (2, 1, "silk"), (5, 1, "blue")}
    assert sorted(edits.draw(1, random.Random(seed)).right for seed in range(30))[0] == [0, 5]
    assert edits.told() == (
        "4 of 6 rows are references (word 4); 1 are not: no other text of the category differs from theirs in one word; "
        "1 are not: they have no text"
    )


def test_queries_are_the_same_for_the_same_seed_and_speak_most_simply() -> None:
    edits = Edits(shop(), ("colour", "sleeve"))
    assert edits.queries(1) == edits.queries(1) != edits.queries(2)
    assert {edits.text(edit).split()[0] for edit in edits.queries(1)} == {"in", "with"}


@pytest.mark.parametrize(
    ("items", "attributes", "message"),
    [
        ([item(0, "a", colour="red"), item(1, "b", colour="blue")], ["colour"], r"no two of 2 items .*2 are not: no row of their category has another colour\. Name fewer"),
        ([item(0, "a", "red"), item(1, "a", "blue dress")], [], "2 are not: no other text .* in one word. Name columns that say what can differ"),
    ],
)  # fmt: skip
def test_items_that_give_nothing_are_refused_with_the_reason(
    items: list[EditItem], attributes: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Edits(items, attributes)
    with pytest.raises(ValueError, match="changes is 0, expected at least 1"):
        Edits(items, attributes, changes=0)


def test_attributes_are_columns_with_few_values() -> None:
    rows = [{"colour": COLOURS[i % 3], "size": str(i % 4), "sender": f"s{i}", "shop": "one"} for i in range(60)]
    taken, said = chosen_attributes(rows, None)
    assert taken == ["colour"]
    assert (
        said == "attributes are colour (3 values); other columns are not: size (4 values), sender (60 values), shop (1 values)"
    )
    assert chosen_attributes(rows, ["size"])[0] == ["size"]
    assert chosen_attributes(rows, []) == ([], "attributes are none: words of the texts are")
    assert chosen_attributes([{}], None)[1] == "attributes are none of the columns, but words of the texts"
    with pytest.raises(ValueError, match="attribute column.*sleeve.*colour, sender, shop, size"):
        chosen_attributes(rows, ["sleeve"])
    with pytest.raises(ValueError, match="column shop has one value in all rows, 'one'"):
        chosen_attributes(rows, ["shop"])
