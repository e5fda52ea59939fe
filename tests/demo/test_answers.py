"""What the page asks and gets: a session's steps, captions, persons, and errors as it shows them."""

from __future__ import annotations

import base64
import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from unifashion_pl import toy
from unifashion_pl.demo.answers import MOST, Answers, CaptionAsked, PaintAsked, SearchAsked, told
from unifashion_pl.demo.uploads import Refused
from unifashion_pl.gallery.session import Session
from unifashion_pl.pages import inside
from unifashion_pl.person.problems import InputError


def opened(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


def test_steps_give_what_a_session_of_the_library_gives(answers: Answers) -> None:
    assert answers.catalogue is not None
    asking = answers.catalogue.asking
    session = Session(asking, text="a red dress", k=5)
    first = answers.search(SearchAsked(texts=("a red dress",), k=5))
    assert ids(first) == [hit.id for hit in session.hits]
    assert first["notes"] == []
    assert first["hits"][0]["score"] == pytest.approx(session.hits[0].score, abs=6e-4)
    assert opened(first["hits"][0]["picture"]).size == answers.catalogue.drawn[ids(first)[0]].size
    chosen = ids(first)[0]
    session.look_from(answers.catalogue.drawn[chosen])
    session.refine("is blue")
    session.k = 6
    expected = [hit.id for hit in session.refine("has longer sleeves") if hit.id != chosen][:5]
    found = answers.search(SearchAsked(texts=("is blue", "has longer sleeves"), image=f"hit:{chosen}", k=5))
    assert ids(found) == expected
    assert found["text"] == "is blue and has longer sleeves"


def test_a_filter_and_a_photo(answers: Answers) -> None:
    assert answers.catalogue is not None
    id, picture = next(iter(answers.catalogue.drawn.items()))
    assert ids(answers.search(SearchAsked(image=inside(picture, "PNG"), k=3)))[0] == id
    found = answers.search(SearchAsked(texts=("red",), where="category == 'dress'", k=MOST))
    assert 0 < len(found["hits"]) <= MOST
    assert {hit["columns"]["category"] for hit in found["hits"]} == {"dress"}


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (SearchAsked(), "give a text, an image, or both"),
        (SearchAsked(texts=("x" * 501,)), "501 characters"),
        (SearchAsked(texts=("red",) * 33), "33 wishes"),
        *((SearchAsked(texts=("red",), k=k), f"k is {k}") for k in (0, -1, MOST + 1, 10**9)),
        (SearchAsked(texts=("red", "漢字")), "nothing of '漢字' can be read"),
        (SearchAsked(texts=("red",), where="price <"), "price"),
        (SearchAsked(image="hit:nothing"), "'nothing' is not among"),
        (SearchAsked(image="example:nothing"), "no example 'nothing'"),
        (SearchAsked(image="/etc/hostname"), "a picture is given as '/etc/hostname'"),
    ],
)
def test_what_cannot_be_searched_is_said(answers: Answers, asked: SearchAsked, error: str) -> None:
    with pytest.raises((ValueError, KeyError)) as raised:
        answers.search(asked)
    assert error in told(raised.value)["found"]


def test_a_word_that_the_model_does_not_know_is_noted(answers: Answers) -> None:
    notes = answers.search(SearchAsked(texts=("a red 漢字",), k=1))["notes"]
    assert any("so not read: '漢', '字'" in note for note in notes)


def test_without_something_to_search_the_page_says_how_to_give_it(answers: Answers) -> None:
    alone = replace(answers, catalogue=None)
    assert alone.state()["catalogue"] is None
    assert alone.state()["shelf"] == []
    with pytest.raises(Refused, match="no index to search") as refused:
        alone.search(SearchAsked(texts=("red",)))
    assert "--index FOLDER" in refused.value.cure


def test_the_page_begins_with_pictures_examples_and_what_the_model_has_not_learned(answers: Answers) -> None:
    state = answers.state()
    assert set(state["missing"].values()) == {""}
    assert [person["name"] for person in state["persons"]] == ["person-0"]
    assert opened(state["persons"][0]["mask"]).size == opened(state["persons"][0]["picture"]).size
    assert len(state["shelf"]) == 14
    assert len(state["searches"]) == len(set(state["searches"])) == 4
    assert all(answers.search(SearchAsked(texts=(text,), k=1))["notes"] == [] for text in state["searches"])


def test_three_captions(answers: Answers) -> None:
    assert answers.catalogue is not None
    id = next(iter(answers.catalogue.drawn))
    said = answers.caption(CaptionAsked(image=f"hit:{id}"))["captions"]
    assert list(said) == ["fashion200k", "fashiongen", "fashioniq"]
    assert len(set(said.values())) == 3
    assert said["fashiongen"] == answers.models.main.model.caption(answers.catalogue.drawn[id])[0]  # type: ignore[attr-defined]


def test_a_photo_is_looked_at_and_of_photos_the_toy_says_that_it_knows_nothing(answers: Answers) -> None:
    file = io.BytesIO()
    Image.effect_noise((80, 60), 120).convert("RGB").save(file, "PNG")
    looked = answers.look(file.getvalue())
    assert (looked["width"], looked["height"]) == (80, 60)
    assert looked["notes"] == [toy.SENTENCE]
    file = io.BytesIO()
    answers.persons[0].picture.save(file, "PNG")
    assert answers.look(file.getvalue())["notes"] == []


def drawn(answers: Answers, **changes: Any) -> PaintAsked:
    """A try-on with the example's own region."""
    mask = answers.persons[0].mask
    assert mask is not None
    return structs.replace(
        PaintAsked(person="example:person-0", garment="example:garment-1", mask=inside(mask, "PNG")), **changes
    )


def test_only_the_drawn_region_is_repainted_and_by_the_garment(answers: Answers) -> None:
    person, mask = answers.persons[0].picture, np.asarray(answers.persons[0].mask) > 127
    made = answers.tryon(drawn(answers))
    picture = np.asarray(opened(made["picture"]))
    before = np.asarray(person)
    assert (picture[~mask] == before[~mask]).all()
    assert (picture[mask] != before[mask]).any(-1).mean() > 0.9
    other = np.asarray(opened(answers.tryon(drawn(answers, garment="example:garment-0"))["picture"]))
    assert (other[mask] != picture[mask]).any(-1).mean() > 0.5
    assert made["seconds"] > 0


def test_design_reads_the_words_and_the_sketch(answers: Answers) -> None:
    asked = drawn(answers, garment=None, text="red with white dots")
    plain = answers.design(asked)["picture"]
    assert answers.design(structs.replace(asked, text="plain green shirt"))["picture"] != plain
    strokes = Image.new("L", (288, 384))
    strokes.paste(255, (90, 120, 200, 128))
    strokes.paste(255, (90, 300, 200, 308))
    strokes.paste(255, (90, 120, 98, 300))
    assert answers.design(structs.replace(asked, sketch=inside(strokes, "PNG")))["picture"] != plain


def test_what_is_lacking_is_named_with_how_to_mend_it(answers: Answers) -> None:
    for asked, found, cure in (
        (drawn(answers, garment=None), "no garment is chosen", "Choose"),
        (drawn(answers, mask=None), "nothing says where to paint", "fill a box"),
    ):
        with pytest.raises(Refused, match=found) as refused:
            answers.tryon(asked)
        assert cure in refused.value.cure
    with pytest.raises(Refused, match="0 characters"):
        answers.design(drawn(answers, text=" "))


def test_a_region_that_cannot_be_meant_is_shown_in_a_picture_that_is_written_nowhere(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    everything = inside(Image.new("L", (288, 384), 255), "PNG")
    with pytest.raises(InputError) as error:
        answers.tryon(drawn(answers, mask=everything))
    shown = told(error.value)
    assert shown["found"].startswith("mask ")
    assert shown["expected"]
    assert shown["cure"]
    assert opened(shown["picture"]).size[0] > 0
    assert [*tmp_path.iterdir()] == []
