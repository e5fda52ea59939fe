"""What a search found says how its score came about."""

from __future__ import annotations

from unifashion_pl.gallery import Hit


def test_an_explanation_names_the_token_and_the_caption_where_they_took_part() -> None:
    assert Hit("a", 0.5, 0.5).explanation == "image 0.500 (all query tokens)"
    assert Hit("a", 0.7, 0.7, token=3).explanation == "image 0.700 (query token 3)"
    captioned = Hit("a", 1.2, 0.7, token=0, caption_score=0.5, caption="it's red")
    assert captioned.explanation == 'image 0.700 (query token 0), caption 0.500 ("it\'s red")'


def test_further_parts_are_said_and_everything_is_told_as_plain_values() -> None:
    hit = Hit("a", 1.2, 0.7, token=3, image="/x/a.png", product="p", columns={"price": 3}, parts={"image": 0.7, "words": 0.5})
    assert hit.explanation == "image 0.700 (query token 3), words 0.500"
    told = {"id": "a", "score": 1.2, "image": "/x/a.png", "product": "p", "caption": None, "columns": {"price": 3}}
    assert hit.as_json() == {**told, "parts": {"image": 0.7, "words": 0.5}}
    assert len({hit, hit}) == 1
