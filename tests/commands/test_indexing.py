"""``index build``, ``embed`` and ``add`` as a shop calls them."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from catalogues import catalogue, damage
from small import small_backbone
from tqdm.auto import tqdm

from unifashion_pl.cli import main
from unifashion_pl.commands.options import Model
from unifashion_pl.gallery import Gallery, embedding, staging, store
from unifashion_pl.module import UniFashionModule
from unifashion_pl.tasks.retrieval import RetrievalModule


def make_model(seed: int = 0) -> UniFashionModule:
    torch.manual_seed(seed)
    return UniFashionModule(small_backbone(seed, initializer_range=0.3), RetrievalModule(hidden_size=32, embed_dim=8)).eval()


@pytest.fixture(scope="module")
def small_model() -> UniFashionModule:
    return make_model()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads of torch do not outlive a fork."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(small_model: UniFashionModule, monkeypatch: pytest.MonkeyPatch) -> UniFashionModule:
    monkeypatch.setattr(Model, "load", lambda _: small_model)
    monkeypatch.setattr(embedding, "BATCH", 3)
    monkeypatch.setattr(embedding, "COMMIT", 6)
    return small_model


def shop(root: Path, count: int = 20, start: int = 0) -> list[str]:
    """A shop's own CSV of pictures -> the options that name it."""
    items = catalogue(root, count)[start:]
    lines = [
        f"{Path(str(item.image)).name},SKU{item.id},P{i // 2},{item.caption or 'a coat'},{i}" for i, item in enumerate(items)
    ]
    (root / "items.csv").write_text("\n".join(["photo,sku,parent,title,price", *lines]) + "\n", encoding="utf-8")
    columns = "image=photo,id=sku,product=parent,text=title"
    return ["--csv", str(root / "items.csv"), "--root", str(root), "--columns", columns]


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["index", *words])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_shops_own_columns_are_named(tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str]) -> None:
    options, out = shop(tmp_path / "photos"), str(tmp_path / "index")
    main(["index", "build", *options, "--texts", "--out", out])
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: 20 rows read, 20 indexed, 0 left out, ")
    assert "images/s" in said
    found = Gallery.load(out, model)
    assert found.ids == [f"SKUi{i:02d}" for i in range(20)]
    assert found.captions[0] == "a red dress"
    (hit,) = found.search(text="a red dress", where="price == 5 and product == 'P2'")
    assert (hit.id, hit.product, hit.caption) == ("SKUi05", "P2", "a coat")
    assert hit.columns == {"price": 5}  # what has a name of ours is there once
    main(["index", "build", *options, "--out", out])
    (hit,) = Gallery.load(out, model).search(text="a red dress", where="id == 'SKUi05'")
    assert (hit.caption, hit.columns) == (None, {"title": "a coat", "price": 5})
    capsys.readouterr()
    (tmp_path / "photos" / "own.csv").write_text("photo,sku,id\n00.png,a,7\n")
    options[1] = str(tmp_path / "photos" / "own.csv")
    main(["index", "build", *options[:-1], "image=photo,id=sku", "--out", out])
    assert "the column id is left out, --columns names another" in capsys.readouterr().err
    assert Gallery.load(out, model).ids == ["a"]
    options[1] = str(tmp_path / "photos" / "items.csv")
    options[-1] = "image=foto"
    assert "has no column 'foto'; it has photo, sku" in failure(capsys, "build", *options, "--out", out)
    options[-1] = "bild=photo"
    assert "unknown entries in columns: bild; known are image, text" in failure(capsys, "build", *options, "--out", out)
    options[-1] = "photo"
    assert "'photo' names no column: expected OURS=YOURS" in failure(capsys, "build", *options, "--out", out)


def test_a_column_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--csv", "x.csv", "--root", ".", "--out", str(tmp_path), "--columns", "image=a, image=b"]
    assert "'image' is named 2 times, expected one column for each" in failure(capsys, "build", *words)


def test_an_interrupted_build_leaves_the_older_index_and_goes_on(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"
    main(["index", "build", *shop(tmp_path / "old", 2), "--out", str(out)])
    options = shop(tmp_path / "photos")
    usual, turns = staging.append, itertools.count()

    def stopped(*arguments: object) -> None:
        if next(turns) == 2:
            raise KeyboardInterrupt
        usual(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(staging, "append", stopped)
    with pytest.raises(SystemExit) as ended:
        main(["index", "build", *options, "--out", str(out)])
    assert ended.value.code == 130
    assert "12 of 20 images are embedded and kept: the same command goes on from there" in capsys.readouterr().err
    assert len(Gallery.load(out, model)) == 2
    main(["index", "check", str(out)])
    assert "not finished: 12 images of a build are embedded" in capsys.readouterr().out
    assert "queries both, not target" in failure(capsys, "build", *options, "--out", str(out), "--queries", "target")
    main(["index", "build", *options, "--out", str(out)])
    assert "20 rows read, 20 indexed (12 of them embedded before), 0 left out" in capsys.readouterr().out
    assert len(Gallery.load(out, model)) == 20
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith("vectors")) == [".lock", "index.db"]


def test_many_bad_pictures_stand_in_a_file(tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str]) -> None:
    options, out, listed = shop(tmp_path / "photos"), tmp_path / "index", tmp_path / "index.bad.csv"
    for i in range(6):
        (tmp_path / "photos" / f"{i:02d}.png").unlink()
    assert f"all of them: {listed}" in failure(capsys, "build", *options, "--out", str(out))
    assert listed.read_text().splitlines()[0] == "id,problem"
    damage(tmp_path / "photos" / "10.png")
    main(["index", "build", *options, "--out", str(out), "--max-bad", "7"])
    shown = capsys.readouterr()
    assert "20 rows read, 13 indexed, 7 left out" in shown.out
    assert "7 images are left out: " in shown.err
    assert [line.partition(",")[0] for line in listed.read_text().splitlines()[1:]] == [
        f"SKUi{i:02d}" for i in (0, 1, 2, 3, 4, 5, 10)
    ]
    main(["index", "build", *shop(tmp_path / "photos"), "--out", str(out)])
    assert not listed.exists()
    (tmp_path / "photos" / "items.csv").write_text("photo,sku,parent,title\n00.png,a,,\n01.png,a,,\n")
    assert "ids occur more than once: a (lines 2, 3)" in failure(capsys, "build", *options, "--out", str(out))
    assert len(Gallery.load(out, model)) == 20


def test_ranks_embed_and_an_index_takes_what_they_made(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options, place = shop(tmp_path / "photos"), str(tmp_path / "vectors")
    damage(tmp_path / "photos" / "07.png")
    from_vectors = ["build", *options, "--out", str(tmp_path / "index"), "--vectors", place]
    assert "make them with `unifashion index embed --out FOLDER`" in failure(capsys, *from_vectors)
    assert "expected I/N with I from 0" in failure(capsys, "embed", *options, "--out", place, "--shard", "2/2")
    main(["index", "embed", *options, "--out", place, "--shard", "0/2", "--max-bad", "1"])
    assert "1 of 2 shards are not there, 1/2" in failure(capsys, *from_vectors)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    main(["index", "embed", *options, "--out", place, "--max-bad", "1"])
    assert "shard-1-of-2: " in capsys.readouterr().out
    assert "1 of 20 images cannot be used, allowed are 0" in failure(capsys, *from_vectors)
    assert not (tmp_path / "index" / "index.db").exists()
    with monkeypatch.context() as without:
        without.setattr(Model, "load", None)
        main(["index", *from_vectors, "--max-bad", "1"])
    assert "20 rows read, 19 indexed, 1 left out" in capsys.readouterr().out
    main(["index", "build", *options, "--out", str(tmp_path / "whole"), "--max-bad", "1"])
    one, two = Gallery.load(tmp_path / "whole", model), Gallery.load(tmp_path / "index", model)
    assert one.ids == two.ids
    for name, tokens in one.tokens.items():
        assert tokens.allclose(two.tokens[name], atol=1e-6)
    shard = str(tmp_path / "vectors" / "shard-0-of-2")
    for words in (
        ["build", *options, "--out", shard],
        [*from_vectors[:-3], shard, "--vectors", place],
        ["add", shard, *options],
    ):
        assert "is no index: it holds vectors of" in failure(capsys, *words)
    assert "have storage fp32, not int8: embed them again" in failure(capsys, *from_vectors, "--storage", "int8")
    other = make_model(1)
    monkeypatch.setattr(Model, "load", lambda _: other)
    assert "was made by another model" in failure(capsys, *from_vectors, "--max-bad", "1", "--model", "other")
    assert len(Gallery.load(tmp_path / "index", model)) == 19


def test_an_addition_is_made_at_once_and_gone_on_with(
    tmp_path: Path, model: UniFashionModule, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "index")
    main(["index", "build", *shop(tmp_path / "photos", 4), "--out", out])
    more = shop(tmp_path / "photos", 20, start=2)
    usual, turns = staging.append, itertools.count()

    def stopped(*arguments: object) -> None:
        if next(turns) == 1:
            raise RuntimeError("out of memory")
        usual(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(staging, "append", stopped)
    assert "6 of 18 images are embedded and kept" in failure(capsys, "add", out, *more, "--replace")
    assert len(Gallery.load(out, model)) == 4
    main(["index", "add", out, *more, "--replace"])
    said = capsys.readouterr().out
    assert "16 added, 2 replaced, 20 images" in said
    assert "18 rows read, 18 taken (6 of them embedded before)" in said
    assert not (tmp_path / "index" / store.ADDING).exists()
    found = Gallery.load(out, model)
    assert sorted(found.ids) == [f"SKUi{i:02d}" for i in range(20)]
    assert [hit.columns["price"] for hit in found.search(text="red", where="id == 'SKUi19'")] == [17]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed as POSIX does")
@pytest.mark.usefixtures("one_thread")
def test_a_build_that_is_killed_20_times_is_that_of_an_undisturbed_one(tmp_path: Path, model: UniFashionModule) -> None:
    """kill -9 at random moments: what was committed is there, what is searched is the older index, and in the end all is as if nothing had been."""
    tqdm.set_lock(threading.RLock())  # the usual one is shared with forked processes: who is killed with it keeps it for good
    options, out, whole = shop(tmp_path / "photos", 600), tmp_path / "index", tmp_path / "whole"

    def staged() -> int:
        return store.is_new(out / store.BUILDING) and len(store.check(out / store.BUILDING, staged=True).rows)

    main(["index", "build", *options, "--texts", "--out", str(whole)])
    main(["index", "build", *shop(tmp_path / "old", 2), "--out", str(out)])
    chance, committed, kills = random.Random(0), 0, 0
    while kills < 20:
        if (child := os.fork()) == 0:
            main(["index", "build", *options, "--texts", "--out", str(out)])
            os._exit(0)
        enough = committed + chance.randrange(8)  # by what it did, because machines differ in their pace
        while staged() < enough:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        kills += 1
        there = staged()
        assert there >= enough
        committed = there
        assert len(Gallery.load(out, model)) == 2
    assert 0 < committed < 600
    main(["index", "build", *options, "--texts", "--out", str(out)])
    one, two = Gallery.load(out, model), Gallery.load(whole, model)
    assert one.ids == two.ids
    assert all(tokens.equal(two.tokens[name]) for name, tokens in one.tokens.items())
    assert not list(out.rglob("*.part"))
