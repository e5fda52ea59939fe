"""``unifashion index`` on a folder of pictures and a CSV, with the shipped model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unifashion_pl.cli import main
from unifashion_pl.commands.options import Model
from unifashion_pl.gallery import Gallery
from unifashion_pl.module import UniFashionModule
from unifashion_pl.toy import ToyWarning

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 160, 60), "white": (240, 240, 240)}


def catalogue(folder: Path, *names: str, texts: bool = True, shade: int = 0) -> list[str]:
    """A CSV of one picture a name -> the options that name it."""
    folder.mkdir(exist_ok=True)
    for name in names:
        picture = np.full((64, 64, 3), 255, np.uint8)
        picture[8:56, 16:48] = np.array(COLOURS[name]) // (shade + 1)
        Image.fromarray(picture).save(folder / f"{name}.png")
    lines = [f"{name}.png,{f'a {name} dress' if texts else ''}" for name in names]
    (folder / "items.csv").write_text("\n".join(["image,text", *lines]), encoding="utf-8")
    return ["--csv", str(folder / "items.csv"), "--root", str(folder)]


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return UniFashionModule.from_pretrained("tiny")


def test_an_index_that_was_added_to_and_taken_from_is_the_one_built_at_once(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str]
) -> None:
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    main(["index", "build", *catalogue(tmp_path / "a", "white", "red"), "--texts", "--out", str(grown)])
    main(["index", "add", str(grown), *catalogue(tmp_path / "b", "blue", "green"), "--texts"])
    main(["index", "remove", str(grown), "white"])
    assert "1 removed, 3 images" in capsys.readouterr().out
    main(["index", "build", *catalogue(tmp_path / "c", "red", "blue", "green"), "--texts", "--out", str(whole)])
    ours, expected = Gallery.load(grown, model), Gallery.load(whole, model)
    assert ours.ids == expected.ids == ["red", "blue", "green"]
    assert ours.captions == expected.captions
    for text in ("a green dress", "a red dress"):
        hits = [gallery.search(text=text, k=3) for gallery in (ours, expected)]
        assert [hit.id for hit in hits[0]] == [hit.id for hit in hits[1]]
        assert [hit.score for hit in hits[0]] == pytest.approx([hit.score for hit in hits[1]], abs=1e-5)
    capsys.readouterr()
    main(["index", "search", str(grown), "--text", "a green dress", "-k", "1"])
    rank, score, name, why = capsys.readouterr().out.strip().split("\t")
    assert (rank, name) == ("1", "green")
    assert float(score) == pytest.approx(ours.search(text="a green dress", k=1)[0].score, abs=1e-4)
    assert "query token" in why
    assert "'a green dress'" in why


def test_replacing_takes_the_new_picture_and_is_asked_for(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "index"
    main(["index", "build", *catalogue(tmp_path / "a", "red", "blue"), "--out", str(index)])
    before = Gallery.load(index, model)
    again = catalogue(tmp_path / "b", "red", "green", shade=3)
    with pytest.raises(SystemExit):
        main(["index", "add", str(index), *again])
    assert "has red already: --replace" in capsys.readouterr().err
    assert Gallery.load(index, model).ids == before.ids
    main(["index", "add", str(index), *again, "--replace"])
    assert "1 added, 1 replaced, 3 images" in capsys.readouterr().out
    after = Gallery.load(index, model)
    assert after.ids == ["blue", "red", "green"]
    for name, tokens in after.tokens.items():
        assert tokens[0].equal(before.tokens[name][1])
        assert not tokens[1].allclose(before.tokens[name][0], atol=1e-3)


def test_what_cannot_be_meant_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, options = tmp_path / "index", catalogue(tmp_path / "a", "red", "blue", texts=False)
    with pytest.raises(SystemExit):
        main(["index", "build", *options, "--texts", "--out", str(index)])
    assert "has no texts: --texts needs a column text" in capsys.readouterr().err
    main(["index", "build", *options, "--out", str(index)])
    with pytest.raises(SystemExit):
        main(["index", "remove", str(index), "red", "pink"])
    assert "which holds 2 images: pink" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["index", "search", str(tmp_path / "nowhere"), "--text", "red"])
    assert "nowhere is not there: `unifashion index build --out" in capsys.readouterr().err


def test_requests_that_cannot_be_meant_are_one_sentence(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "load", lambda _: model)
    index = str(tmp_path / "index")
    main(["index", "build", *catalogue(tmp_path / "a", "red", "blue"), "--out", index])
    for options, said in (
        (["--text", "red", "-k", "0"], "k is 0, expected at least 1"),
        (["--text", "red", "-k", "-1"], "k is -1, expected at least 1"),
        (["--text", ""], "nothing of '' can be read by this model's tokenizer"),
        (["--text", "!!!"], "nothing of '!!!' can be read"),
        (["--text", "", "--image", str(tmp_path / "a" / "red.png")], "nothing of '' can be read"),
        ([], "give a text, an image, or both"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["index", "search", index, *options])
        assert ended.value.code == 2
        assert f"unifashion index: {said}" in capsys.readouterr().err


def test_an_index_that_is_none_is_left_alone(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "load", lambda _: model)
    options = catalogue(tmp_path / "a", "red")
    for command in (["add", str(tmp_path / "no"), *options], ["remove", str(tmp_path / "no"), "red"]):
        with pytest.raises(SystemExit):
            main(["index", *command])
        assert "no is not there: `unifashion index build --out" in capsys.readouterr().err
        assert not (tmp_path / "no").exists()
    with pytest.raises(SystemExit):
        main(["index", "build", *options, "--out", str(tmp_path / "a" / "red.png")])
    assert "a file stands where a folder is needed" in capsys.readouterr().err
    main(["index", "build", *options, "--out", str(tmp_path / "index")])
    (tmp_path / "index" / "index.db").write_text("{")
    with pytest.raises(SystemExit) as ended:
        main(["index", "add", str(tmp_path / "index"), *options])
    assert ended.value.code == 2
    assert "index.db is no index that Gallery.save wrote: build it again" in capsys.readouterr().err


def with_columns(folder: Path) -> list[str]:
    """Three products, one of them in two views, with prices and categories."""
    options = catalogue(folder, "red", "blue", "green", "white", texts=False)
    rows = ["red,p1,19.90,dress,a crimson gown", "blue,p1,19.90,dress,", "green,p2,45,shirt,of silk", "white,p3,80,dress,"]
    cells = [(row.partition(",")[0], row) for row in rows]
    lines = ["image,id,product,price,category,notes", *(f"{name}.png,{row}" for name, row in cells)]
    (folder / "items.csv").write_text("\n".join(lines), encoding="utf-8")
    return options


def test_columns_are_kept_filtered_counted_and_come_back(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "load", lambda _: model)
    index = str(tmp_path / "index")
    main(["index", "build", *with_columns(tmp_path / "a"), "--out", index])
    capsys.readouterr()
    ask = ["index", "search", index, "--text", "a red dress"]
    main([*ask, "--json", "--where", "price < 50 and category == 'dress'", "--facets", "category"])
    told = json.loads(capsys.readouterr().out)
    assert told["query"] == {"text": "a red dress", "where": "price < 50 and category == 'dress'", "k": 10}
    assert {hit["id"] for hit in told["hits"]} == {"red", "blue"}
    first = told["hits"][0]
    assert list(first) == ["id", "score", "image", "product", "caption", "columns", "parts"]
    assert (first["product"], first["columns"]["price"]) == ("p1", 19.9)
    assert first["image"] == str(tmp_path / "a" / f"{first['id']}.png")
    assert first["score"] == pytest.approx(first["parts"]["image"])
    assert told["facets"] == {"category": [{"value": "dress", "count": 2}]}
    main([*ask, "--group", "product", "--json"])
    assert len(hits := json.loads(capsys.readouterr().out)["hits"]) == 3
    assert len({hit["product"] for hit in hits}) == 3
    main(["index", "search", index, "--text", "something of silk", "--words", "5", "-k", "1"])
    assert capsys.readouterr().out.split("\t")[2] == "green"
    main(["index", "search", index, "--text", "a red dress", "--exclude", "red", "--exclude", "blue", "--rerank", "2"])
    out = capsys.readouterr().out
    assert "matching head" in out
    assert {line.split("\t")[2] for line in out.splitlines()} == {"green", "white"}
    main([*ask, "--where", "price > 1000"])
    assert tuple(capsys.readouterr()) == ("", "no hits: --where and --exclude leave no image\n")
    for options, said in (
        (
            ["--where", "prize < 3"],
            "unknown column 'prize' (did you mean price?); known are id, product, caption, price, category, notes",
        ),
        (["--group", "maker"], "unknown column 'maker'"),
        (["--facets", "maker"], "unknown column 'maker'"),
        (["--rerank", "-1"], "rerank is -1"),
    ):
        with pytest.raises(SystemExit):
            main([*ask, *options])
        assert said in capsys.readouterr().err


def test_examples_are_searched_by_and_kept_away_from(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "load", lambda _: model)
    index, folder = str(tmp_path / "index"), tmp_path / "a"
    main(["index", "build", *with_columns(folder), "--out", index])
    capsys.readouterr()
    main(["index", "search", index, "--like", str(folder / "red.png"), "--like", str(folder / "blue.png"), "-k", "2"])
    assert {line.split("\t")[2] for line in capsys.readouterr().out.splitlines()} == {"red", "blue"}
    main(["index", "search", index, "--like", str(folder / "red.png"), "--unlike", str(folder / "blue.png"), "--json"])
    hits = {hit["id"]: hit for hit in json.loads(capsys.readouterr().out)["hits"]}
    assert hits["blue"]["parts"]["unlike"] == pytest.approx(1, abs=1e-4)
    for hit in hits.values():
        assert hit["score"] == pytest.approx(hit["parts"]["image"] - 0.5 * hit["parts"]["unlike"], abs=1e-5)


def test_a_page_shows_the_hits_and_where_tokens_looked(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "load", lambda _: model)
    index, place = str(tmp_path / "index"), tmp_path / "page.html"
    main(["index", "build", *with_columns(tmp_path / "a"), "--out", index])
    (tmp_path / "a" / "green.png").unlink()
    main(["index", "search", index, "--text", "a red dress", "--html", str(place), "--facets", "category"])
    page = place.read_text(encoding="utf-8")
    assert page.count('src="data:image/jpeg') == page.count('class="heat" src="data:image/png') == 3
    assert "green.png cannot be read" in page
    assert "19.9" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "green.png" in capsys.readouterr().err


def test_an_index_is_checked_and_a_column_keeps_its_kind(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "load", lambda _: model)
    index = tmp_path / "index"
    main(["index", "build", *with_columns(tmp_path / "a"), "--out", str(index), "--storage", "int8", "--pool", "4"])
    main(["index", "check", str(index)])
    out = capsys.readouterr().out
    assert "whole: 4 images (0 with a text that counts) in 1 file, int8, 4 tokens an image, queries: both" in out
    assert "price\tnumber" in out
    more = catalogue(tmp_path / "b", "red", texts=False)
    (tmp_path / "b" / "items.csv").write_text("image,id,price\nred.png,new,cheap\n")
    with pytest.raises(SystemExit):
        main(["index", "add", str(index), *more])
    assert "the column 'price' of this index holds numbers, and the CSV has 'cheap'" in capsys.readouterr().err
    (vectors,) = index.glob("vectors-*")
    vectors.write_bytes(vectors.read_bytes()[:-1])
    with pytest.raises(SystemExit):
        main(["index", "check", str(index)])
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_two_that_add_at_once_both_add(tmp_path: Path, model: UniFashionModule) -> None:
    """Two processes; the second waits for the first."""
    index = tmp_path / "index"
    main(["index", "build", *catalogue(tmp_path / "a", "red"), "--out", str(index)])
    more = [catalogue(tmp_path / name, name) for name in ("blue", "green", "white")]
    command = [sys.executable, "-m", "unifashion_pl", "index", "add", str(index)]
    running = [subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) for options in more]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(line.rsplit("added, 0 replaced, ")[1].split()[0] for line in said) == ["2", "3", "4"]
    assert sorted(Gallery.load(index, model).ids) == ["blue", "green", "red", "white"]


def test_many_queries_become_a_run_and_its_right_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, run = tmp_path / "index", tmp_path / "colours.run"
    main(["index", "build", *catalogue(tmp_path / "a", "red", "blue"), "--out", str(index)])
    (tmp_path / "q.csv").write_text("id,text,image,relevant\nfirst,a red dress,,red\nsecond,,a/blue.png,blue\n", "utf-8")
    capsys.readouterr()
    main(["index", "search", str(index), "--queries", str(tmp_path / "q.csv"), "--trec", str(run)])
    assert capsys.readouterr().out.split() == [str(run), str(run.with_suffix(".qrels"))]
    found = [line.split() for line in run.read_text().splitlines()]
    assert [(q, document, rank) for q, _, document, rank, _, _ in found] == [
        ("first", "red", "1"),
        ("first", "blue", "2"),
        ("second", "blue", "1"),
        ("second", "red", "2"),
    ]
    assert run.with_suffix(".qrels").read_text() == "first 0 red 1\nsecond 0 blue 1\n"
    with pytest.raises(SystemExit):
        main(["index", "search", str(index), "--queries", str(tmp_path / "q.csv")])
    assert "--queries goes with --trec FILE" in capsys.readouterr().err
    main(["index", "search", str(index), "--text", "a red dress", "--trec", str(run)])
    assert [line.split()[:3] for line in run.read_text().splitlines()] == [["1", "Q0", "red"], ["1", "Q0", "blue"]]


def test_notes_about_photos_and_texts(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "load", lambda _: model)
    index = str(tmp_path / "index")
    main(["index", "build", *catalogue(tmp_path / "a", "red"), "--texts", "--out", index])
    monkeypatch.setattr("unifashion_pl.toy._told", set())  # embedding may have said it
    with pytest.warns(ToyWarning, match="the shipped model `tiny` is a toy"):
        main(["index", "search", index, "--text", "red"])  # cut out on white, as no drawing of the toy's is
    main(["index", "add", index, *catalogue(tmp_path / "b", "blue")])
    assert f"note: texts count in {index}, and without --texts these images" in capsys.readouterr().err
    main(["index", "add", index, *catalogue(tmp_path / "c", "green"), "--texts"])
    assert "note: texts" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["index", "remove", "--help"])
    assert capsys.readouterr().out.count("not needed") == 3
    main(["index", "remove", index, "green", "--device", "cpu", "--model", "tiny"])


def test_a_calibrated_index_says_when_nothing_matches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before it is calibrated a search says nothing of the kind, afterwards in text, JSON and page, and `--off` forgets it."""
    index, page = str(tmp_path / "index"), tmp_path / "page.html"
    main(["index", "build", *catalogue(tmp_path / "a", *COLOURS), "--queries", "reference", "--out", index])
    asked = [
        f"{article} {name} {garment},{name}"
        for name in COLOURS
        for article in ("a", "one")
        for garment in ("dress", "top", "shirt")
    ]
    (tmp_path / "queries.csv").write_text("\n".join(["text,relevant", *asked]))
    (tmp_path / "foreign.txt").write_text("two cups of tea\na fast car\n")
    capsys.readouterr()
    main(["index", "search", index, "--text", "a red dress", "--json"])
    assert "match" not in json.loads(capsys.readouterr().out)
    main(
        [
            "index",
            "calibrate",
            index,
            "--queries",
            str(tmp_path / "queries.csv"),
            "--foreign",
            str(tmp_path / "foreign.txt"),
            "--reject",
            "0.5",
        ]
    )
    assert "of those whose right answers were taken out, and" in capsys.readouterr().out
    said = {}
    for text in (row.partition(",")[0] for row in asked[::4]):
        main(["index", "search", index, "--text", text, "--json"])
        said[text] = json.loads(capsys.readouterr().out)["match"]
    assert {one["matches"] for one in said.values()} == {True, False}
    assert all(one["matches"] == (one["best"] >= one["score"]) for one in said.values())
    low = next(text for text, one in said.items() if not one["matches"])
    main(["index", "search", index, "--text", low, "--html", str(page)])
    assert "nothing here seems to match" in capsys.readouterr().err
    assert '<p class="nothing">nothing here seems to match' in page.read_text("utf-8")
    main(["index", "calibrate", index, "--off"])
    main(["index", "search", index, "--text", low])
    assert "nothing here" not in capsys.readouterr().err
