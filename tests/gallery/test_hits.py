"""What a search found says how its score came about."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from unifashion_pl.gallery import Hit, Hits


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


def test_hits_are_a_list_that_says_each_in_a_line_and_shows_pictures_that_can_be_read(tmp_path: Path) -> None:
    Image.new("RGB", (300, 400), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    files = [Hit(n, 0.5, 0.5, image=str(tmp_path / f"{n}.png"), columns={"<b>": "<i>"}) for n in "abc"]
    hits = Hits([*files, Hit("d", 0.1, 0.1)])
    assert hits == [*hits]
    assert isinstance(hits[:2], Hits)
    assert hits[0].id == "a"
    assert repr(hits).splitlines()[1] == "  1  0.500  a  image 0.500 (all query tokens)"
    made = hits._repr_html_()
    assert made.count("data:image/jpeg") == 1
    assert made.count("picture cannot be read") == 2
    assert made.count("no picture") == 1
    assert "<b>:" not in made
    assert [len(found) for found in hits.pictures()] == [1, 2]
    many = Hits([Hit(str(n), 0.5, 0.5) for n in range(500)])
    assert "and 488 more" in repr(many)
    assert len(many._repr_html_()) < 10_000
