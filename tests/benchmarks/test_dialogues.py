"""Searches whose answer is known: recall of products, and dialogues with a user who knows the target."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from evaluation.understanding import LOOKS, change, make_model, picture
from torch import Tensor

from unifashion_pl.metrics.lines import read_lines
from unifashion_pl.metrics.records import read_records
from unifashion_pl.module import UniFashionModule
from unifashion_pl.wardrobe.catalogue import SIZES, fiq_parts
from unifashion_pl.wardrobe.feedback import WardrobeFeedback

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from dialogues import ComposedQuery, DialogueLine, Measured, multi_round, product_recall


def shop() -> dict[str, Tensor]:
    return {f"g{i:02d}": picture(i) for i in range(len(LOOKS))}


def says(candidate: str, target: str) -> str | None:
    """Only the colour is spoken about first, then the pattern."""
    shown, wanted = LOOKS[int(candidate[1:])], LOOKS[int(target[1:])]
    if shown == wanted:
        return None
    return f"is {wanted[0]}" if shown[0] != wanted[0] else f"is {wanted[1]}"


def searches() -> list[ComposedQuery]:
    return [ComposedQuery(f"q{i:02d}", f"g{i:02d}", f"g{change(i, '')[0]:02d}") for i in range(20)]


def dialogues(found: Measured) -> list[DialogueLine]:
    return [line for line in found.lines if isinstance(line, DialogueLine)]


def test_feedback_leads_to_the_target_in_two_rounds() -> None:
    found = multi_round(make_model(), shop(), searches(), says, rounds=3, ks=(1, 4))
    assert [found[f"success@1/round-{r}"] for r in (1, 2, 3)] == [0.0, 100.0, 100.0]
    assert all(len(line.rounds) == 2 and not line.gave_up for line in dialogues(found))
    first, second = dialogues(found)[0].rounds
    assert (first.reference, first.text) == ("g00", "is blue")
    assert first.rank > 1
    assert (second.reference, second.text, second.rank) == ("g04", "is striped", 1)
    record = next(r for r in found.records if r.metric == "success@4/round-1")
    assert (
        record.protocol
        == "robustness/multi-round/gallery/image(rounds=3,images=20,references=removed,found=by-round,score=itc)"
    )
    assert record.n == 20
    assert record.interval is not None
    assert record.weights_hash


def test_a_model_that_hears_nothing_never_arrives_by_words() -> None:
    model = make_model(deaf_to=" ")
    found = multi_round(model, shop(), searches(), says, rounds=3)
    assert found["success@1/round-3"] == 0.0
    for line in dialogues(found):
        shown = [one.reference for one in line.rounds]
        assert len(set(shown)) == len(shown)
        assert line.target not in shown


def test_given_texts_start_and_silence_passes_on_or_ends() -> None:
    goal = "g05"
    query = ComposedQuery("q", "g00", goal, "is blue")
    skips = multi_round(make_model(), shop(), [query], lambda c, t: None if c == "g04" else "is striped", rounds=2)
    assert dialogues(skips)[0].rounds[0].text == "is blue"
    assert dialogues(skips)[0].rounds[1].reference == "g06"
    ends = multi_round(make_model(), shop(), [query], lambda c, t: None, rounds=3)
    assert len(dialogues(ends)[0].rounds) == 1
    assert dialogues(ends)[0].gave_up
    assert [ends[f"success@1/round-{r}"] for r in (1, 2, 3)] == [0.0, 0.0, 0.0]


def test_wrong_questions_are_refused() -> None:
    model, good = make_model(), ComposedQuery("q", "g00", "g05")
    for wrong, message in (
        ([], "no queries"),
        ([good, good], "come twice: q"),
        ([ComposedQuery("q", "g00", "x")], "not in the gallery of 20 images: x"),
        ([ComposedQuery("q", "g00", "g00")], "same image in queries q"),
    ):
        with pytest.raises(ValueError, match=message):
            multi_round(model, shop(), wrong, says)
    with pytest.raises(ValueError, match="rounds is 0"):
        multi_round(model, shop(), [good], says, rounds=0)
    with pytest.raises(ValueError, match="feedback on g00 for g05 is ' '"):
        multi_round(model, shop(), [good], lambda c, t: " ")
    with pytest.raises(ValueError, match="without a text: q"):
        product_recall(model, shop(), [good], str)
    with pytest.raises(KeyError, match="no value of 'R@7'; there are none"):
        Measured()["R@7"]


def test_product_recall_of_composed_queries(tmp_path: Path) -> None:
    asked = [ComposedQuery(q.key, q.reference, q.target, says(q.reference, q.target)) for q in searches()]
    by_image = product_recall(make_model(), shop(), asked, str, ks=(1, 2))
    by_colour = product_recall(make_model(), shop(), asked, lambda key: LOOKS[int(key[1:])][0], ks=(1, 2))
    assert by_image["R@1"] == 0.0
    assert by_colour["R@1"] == 100.0
    assert by_colour.records[0].protocol == "robustness/product-level/gallery/ref-kept/image(images=20,products=5,score=itc)"
    folder = by_colour.write(tmp_path / "test")
    assert read_records(folder / "results.json") == by_colour.records
    assert read_lines(folder / "predictions/robustness.jsonl") == [line.written() for line in by_colour.lines]


def test_the_shipped_model_goes_through_several_rounds_of_the_wardrobe() -> None:
    from unifashion_pl.wardrobe import render_product

    model = UniFashionModule.from_pretrained("tiny")
    part = next(p for p in fiq_parts(SIZES["tiny"], 0) if p.split == "val")
    drawn = {i: render_product(p, "front", 64, i) for i, p in zip(part.ids, part.products)}
    asked = [ComposedQuery(f"q{n}", part.ids[t.reference], part.ids[t.target]) for n, t in enumerate(part.triplets)]
    found = multi_round(model, drawn, asked, WardrobeFeedback.of("tiny"), rounds=3, data="wardrobe-tiny")
    curve = [found[f"success@1/round-{r}"] for r in (1, 2, 3)]
    assert curve == sorted(curve)
    assert all(math.isfinite(value) and 0 <= value <= 100 for value in curve)
    assert found["success@10/round-3"] >= curve[-1]
    assert multi_round(model, drawn, asked, WardrobeFeedback.of("tiny"), rounds=3, data="wardrobe-tiny") == found
