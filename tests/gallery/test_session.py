"""Searches in several steps, on a real small model."""

from __future__ import annotations

import pytest
from galleries import N, make_model, pictures

from unifashion_pl.gallery import Gallery, Session
from unifashion_pl.gallery import gallery_of as build
from unifashion_pl.module import UniFashionModule


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return make_model()


@pytest.fixture(scope="module")
def gallery(model: UniFashionModule) -> Gallery:
    return build(model, pictures(), ids=[f"i{n}" for n in range(N)])


def test_session_adds_wishes_and_takes_them_back(gallery: Gallery) -> None:
    session = gallery.session(pictures()[0], k=3)
    start = session.hits
    first = session.refine("longer sleeves")
    second = session.refine(" in red ")
    assert second == gallery.search(text="longer sleeves and in red", image=pictures()[0], k=3)
    assert session.texts == ("longer sleeves", "in red")
    assert session.undo() == first
    assert session.undo() == start == session.hits
    with pytest.raises(ValueError, match="nothing to undo"):
        session.undo()


def test_session_may_look_from_a_hit(gallery: Gallery) -> None:
    session = Session(gallery, text="a red dress", k=2)
    session.look_from(pictures()[4])
    assert session.hits[0].id == "i4"
    assert session.texts == ()
    assert session.refine("shorter") == gallery.search(text="shorter", image=pictures()[4], k=2)
    assert len(session) == 2


def test_failed_steps_leave_the_session(model: UniFashionModule) -> None:
    session = build(model, pictures(), query_set="reference").session(pictures()[0])
    with pytest.raises(RuntimeError, match="made with reference queries"):
        session.refine("longer")
    with pytest.raises(ValueError, match="refine needs a text"):
        session.refine("  ")
    assert session.texts == ()
    with pytest.raises(ValueError, match="starts from"):
        Session(session.gallery)


def test_a_wish_that_says_nothing_is_refused_beside_others(gallery: Gallery) -> None:
    session = gallery.session(pictures()[0], text="longer")
    hits = session.hits
    for wrong, said in (
        ("!!!", "nothing of '!!!' can be read"),
        ("", "refine needs a text, e.g. 'longer sleeves'"),
        (["red", "blue"], "a wish is one text, e.g. 'longer sleeves', got 2"),
        (None, "expected a text or a list of texts, got NoneType"),
        (b"red", "got bytes"),
    ):
        with pytest.raises(ValueError, match=said):
            session.refine(wrong)  # type: ignore[arg-type]
    assert session.texts == ("longer",)
    assert session.hits == hits
    assert len(session) == 0
    with pytest.raises(ValueError, match="one reference image, got 2"):
        session.look_from(pictures(2))


def test_a_session_says_its_wishes_and_shows_its_hits(gallery: Gallery) -> None:
    session = gallery.session(text="a red dress", k=2)
    assert repr(session) == "Session(from texts alone, wishes: a red dress; 0 to undo, 2 hits)"
    assert session._repr_html_() == session.hits._repr_html_()
    assert gallery._repr_html_().count("no picture") == N
