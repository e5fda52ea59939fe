"""``index push`` and ``index search --engine qdrant`` over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gallery.qdrant_http import KEY, served
from PIL import Image

from unifashion_pl.cli import main

pytest.importorskip("qdrant_client", reason="the extra qdrant; it is in the extra test")


def failed(capsys: pytest.CaptureFixture[str], *asked: str) -> str:
    with pytest.raises(SystemExit):
        main(["index", *asked])
    return capsys.readouterr().err


def test_a_server_is_filled_and_asked_as_the_folder_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qdrant_client import QdrantClient

    lines = ["image,text,price,kind"]
    for number, shade in enumerate([(200, 30, 30), (30, 30, 200), (30, 160, 60), (240, 240, 240), (220, 40, 40)]):
        Image.fromarray(np.full((64, 48, 3), shade, np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,number {number},{number * 10},{'dress' if number % 2 else 'shirt'}")
    (tmp_path / "items.csv").write_text("\n".join(lines), "utf-8")
    index = str(tmp_path / "index")
    main(["index", "build", "--csv", str(tmp_path / "items.csv"), "--root", str(tmp_path), "--texts", "--out", index])
    with served(QdrantClient(":memory:")) as url:
        there = ["--url", url, "--collection", "shop"]
        assert "refused (401): Must provide an API key; its key is read from QDRANT_API_KEY" in failed(
            capsys, "push", index, *there
        )
        monkeypatch.setenv("QDRANT_API_KEY", KEY)
        assert f"{url} has no collection 'shop'" in failed(capsys, "search", "--text", "red", "--engine", "qdrant", *there)
        main(["index", "push", index, *there, "--shards", "2"])
        assert "5 images sent, 0 sent anew, 0 removed; 5 in shop" in capsys.readouterr().out
        main(["index", "push", index, *there])
        assert "0 images sent, 0 sent anew, 0 removed; 5 in shop" in capsys.readouterr().out
        for asked in (
            ["--text", "a red dress", "--where", "price < 40 and 'hi' in kind", "--facets", "kind", "--facets", "price"],
            ["--image", str(tmp_path / "4.png"), "--unlike", str(tmp_path / "1.png"), "--group", "kind", "--exclude", "0"],
            ["--text", "is blue", "--image", str(tmp_path / "4.png"), "--rerank", "3"],
        ):
            found = []
            for place in ([index], ["--engine", "qdrant", *there]):
                main(["index", "search", *place, *asked, "--json"])
                found.append(json.loads(capsys.readouterr().out))
            ours, theirs = found
            assert [hit["id"] for hit in ours["hits"]] == [hit["id"] for hit in theirs["hits"]]
            for one, two in zip(ours.pop("hits"), theirs.pop("hits")):
                assert one.pop("score") == pytest.approx(two.pop("score"), abs=1e-5)
                assert one.pop("parts") == pytest.approx(two.pop("parts"), abs=1e-5)
                assert one == two
            assert ours == theirs
        page, run = tmp_path / "page.html", tmp_path / "x.run"
        (tmp_path / "q.csv").write_text("text,relevant\na red dress,4\nblue,1\n", "utf-8")
        main(["index", "search", "--engine", "qdrant", *there, "--text", "a red dress", "--html", str(page)])
        assert page.read_text("utf-8").count("<img") >= 5
        main(["index", "search", "--engine", "qdrant", *there, "--queries", str(tmp_path / "q.csv"), "--trec", str(run)])
        assert [line.split()[0] for line in run.read_text().splitlines()] == ["1"] * 5 + ["2"] * 5
        assert run.with_suffix(".qrels").read_text() == "1 0 4 1\n2 0 1 1\n"
    assert "--engine qdrant needs --url URL and --collection NAME" in failed(
        capsys, "search", "--engine", "qdrant", "--text", "x"
    )
    assert "name the folder of an INDEX" in failed(capsys, "search", "--text", "x")
    gone = failed(capsys, "push", index, *there)
    assert f"no Qdrant server answers at {url}" in gone
