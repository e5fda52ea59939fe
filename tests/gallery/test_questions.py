"""Files of queries, and their hits as runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from galleries import pictures
from PIL import Image

from unifashion_pl.gallery import Gallery
from unifashion_pl.gallery.questions import FileQuery, ask, read_queries
from unifashion_pl.reading import FormatError


def written(folder: Path, text: str, name: str = "q.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_csv_names_texts_images_and_right_answers(tmp_path: Path) -> None:
    place = written(tmp_path, "id,text,image,relevant\nq 1,a dress,,a|b c\nq2,,x.png,\n,in red,x.png, a \n")
    assert read_queries(place) == [
        FileQuery("q 1", "a dress", None, ("a", "b c")),
        FileQuery("q2", None, tmp_path / "x.png"),
        FileQuery("3", "in red", tmp_path / "x.png", ("a",)),
    ]


def test_a_text_file_has_a_query_a_line(tmp_path: Path) -> None:
    place = written(tmp_path, "a red dress\n\na, blue one\n", "q.txt")
    assert read_queries(place) == [FileQuery("1", "a red dress"), FileQuery("2", "a, blue one")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text,colour\na,b\n", "columns are text, colour"),
        ("id,relevant\na,b\n", "expected text or image"),
        ("text,image\na,\n,\n", None),
        ("id,text\na,\n", ":2: the query a has neither text nor image"),
        ("id,text\na,x\nb,y\na,z\n", ":4: the id 'a' is that of line 2 too"),
        ("id,text\n2,x\n,y\n", ":3: the id '2' is that of line 2 too"),
        ("text\n", "has no queries"),
        ("image\n../x.png\n", ":2: the image '../x.png' lies outside of the folder"),
        ("image\n/etc/passwd\n", ":2: the image '/etc/passwd' lies outside of the folder"),
    ],
)
def test_what_is_wrong_is_said_by_line(tmp_path: Path, text: str, said: str | None) -> None:
    place = written(tmp_path, text)
    if said is None:
        assert len(read_queries(place)) == 1
        return
    with pytest.raises(FormatError, match=said):
        read_queries(place)


def test_lists_are_those_of_single_searches_whatever_they_ask_with(gallery: Gallery, tmp_path: Path) -> None:
    place = tmp_path / "x.png"
    Image.fromarray(pictures(1)[0].permute(1, 2, 0).numpy()).save(place)
    asked = [
        FileQuery("t", "red"),
        FileQuery("i", None, place, ("a",)),
        FileQuery("c", "blue", place),
        FileQuery("u", "blue"),
    ]
    for listing, query in zip(ask(gallery, asked, k=2, exclude=["b"]), asked):
        hits = gallery.search(query.text, query.image, k=2, exclude=["b"])
        assert (listing.query, listing.best.names, listing.right) == (query.id, [hit.id for hit in hits], query.right)
        assert listing.best.scores.tolist() == pytest.approx([hit.score for hit in hits], abs=1e-6)
