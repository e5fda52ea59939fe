"""Fields of what may be asked, in JSON and in forms."""

from __future__ import annotations

import base64
import json

import pytest

from unifashion_pl.gallery.asking import SearchOptions
from unifashion_pl.serving.bodies import CaptionBody, EmbedBody, SearchBody, from_body, from_form, pictures_of
from unifashion_pl.serving.errors import Refusal

RAW = b"\x89PNG\xff\x00"
CODED = base64.b64encode(RAW).decode()


def test_json_and_form_say_the_same() -> None:
    wanted = SearchBody(
        text="a red dress", image=RAW, like=[RAW, b"x"], k=3, where="price < 5", exclude=["a", "b"], words=0.5, appearance=2.0
    )
    told = {
        "text": "a red dress",
        "image": CODED,
        "like": [CODED, base64.b64encode(b"x").decode()],
        "k": 3,
        "where": "price < 5",
    }
    told |= {"exclude": ["a", "b"], "words": 0.5, "appearance": 2}
    assert from_body(json.dumps(told).encode(), SearchBody) == wanted
    fields = [("text", "a red dress"), ("image", RAW), ("like", RAW), ("k", " 3 "), ("like", b"x"), ("where", "price < 5")]
    fields += [("exclude", "a"), ("exclude", "b"), ("words", "0.5"), ("appearance", "2")]
    assert from_form(fields, SearchBody) == wanted
    assert from_form([("image", CODED)], EmbedBody) == EmbedBody(image=RAW)


def test_words_that_mean_nothing_in_json_are_texts_in_a_form() -> None:
    for word in ("null", "true", "12"):
        assert from_form([("text", word)], EmbedBody).text == word


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (b"", "invalid_body", "expected a JSON object"),
        (b"{", "invalid_body", "truncated"),
        (b'{"text": "\xff"}', "invalid_body", "UTF-8|utf-8"),
        (b'{"k": NaN}', "invalid_body", "malformed|invalid"),
        (b"[]", "invalid_request", "Expected `object`, got `array`"),
        (b'{"k": "3"}', "invalid_request", "Expected `int`, got `str` - at `$.k`"),
        (b'{"k": true}', "invalid_request", "got `bool`"),
        (b'{"k": 0}', "invalid_request", "Expected `int` >= 1, got 0 - at `$.k`"),
        (b'{"k": 1000000000}', "invalid_request", "<= 1000"),
        (b'{"k": 1e999}', "invalid_request", "out of range"),
        (b'{"text": ""}', "invalid_request", "length >= 1, got '' - at `$.text`"),
        (b'{"text": null, "txt": 1}', "invalid_request", "unknown field 'txt' (did you mean text?); known are text, image"),
        (b'{"image": "no base64!"}', "invalid_request", "base64"),
        (b'{"like": [1]}', "invalid_request", "$.like"),
        (b'{"rerank": -1}', "invalid_request", ">= 0"),
        (b"[" * 100_000, "invalid_", ""),
        (b'{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_", ""),
    ],
    ids=range(17),
)
def test_bodies_that_cannot_be_meant_are_refused_with_the_field(body: bytes, code: str, said: str) -> None:
    with pytest.raises(Refusal) as refused:
        from_body(body, SearchBody)
    assert refused.value.code.startswith(code)
    assert any(part in refused.value.message for part in said.split("|"))
    assert len(refused.value.message) < 500


def test_long_texts_and_many_examples_are_refused() -> None:
    for told in (
        {"text": "a" * 2001},
        {"like": [CODED] * 9},
        {"exclude": ["a"] * 1001},
        {"facets": ["a"] * 21},
        {"group": "g" * 201},
    ):
        with pytest.raises(Refusal, match="length <="):
            from_body(json.dumps(told).encode(), SearchBody)


def test_forms_that_cannot_be_meant_are_refused() -> None:
    for fields, said in (
        ([("k", "3"), ("k", "4")], "twice"),
        ([("k", "many")], "Expected `int`, got `str`"),
        ([("k", "nan")], "Expected `int`"),
        ([("words", "inf")], "Expected `float`"),
        ([("image", b"x"), ("colour", "red")], "unknown field 'colour'"),
        ([("text", RAW)], "Expected `str | null`, got `bytes`"),
    ):
        with pytest.raises(Refusal) as refused:
            from_form(fields, SearchBody)  # type: ignore[arg-type]
        assert said in refused.value.message, (fields, refused.value.message)


def test_an_image_is_needed_for_a_caption() -> None:
    with pytest.raises(Refusal, match="image"):
        from_body(b"{}", CaptionBody)


def test_options_are_those_of_a_search() -> None:
    body = SearchBody(text="a", k=3, where="price < 5", group="product", words=1.0, exclude=["b"], rerank=4, caption_weight=0.5)
    wanted = SearchOptions(k=3, where="price < 5", group="product", words=1.0, exclude=["b"], rerank=4, caption_weight=0.5)
    assert body.options() == wanted
    assert SearchBody(text="a").options() == SearchOptions()


def test_pictures_have_the_names_of_their_fields() -> None:
    body = SearchBody(image=b"1", like=[b"2", b"3"], unlike=[b"4"])
    assert pictures_of(body) == {"image": b"1", "like[0]": b"2", "like[1]": b"3", "unlike[0]": b"4"}
    assert pictures_of(EmbedBody(text="a")) == {}
