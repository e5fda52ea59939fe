"""The folder of an index: old or new whatever happens, one writer, nothing written twice, and no damage that is not a sentence."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from galleries import IDS, make_model, pictures, same
from PIL import Image
from tqdm.auto import tqdm

from unifashion_pl import files
from unifashion_pl.cli import main
from unifashion_pl.gallery import Gallery, segments, store
from unifashion_pl.gallery import gallery_of as build
from unifashion_pl.module import UniFashionModule


@pytest.fixture
def folder(gallery: Gallery, tmp_path: Path) -> Path:
    return gallery.save(tmp_path / "index")


def vectors_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("vectors*.safetensors"))


def test_a_change_writes_what_changed_and_nothing_else(folder: Path, model: UniFashionModule) -> None:
    before = {path: path.stat().st_mtime_ns for path in vectors_in(folder)}
    Gallery.load(folder, model).add([pictures()[5]], ids=["d"], columns=[{"price": 3}]).save(folder)
    after = {path: path.stat().st_mtime_ns for path in vectors_in(folder)}
    assert before.items() < after.items()
    (new,) = after.keys() - before.keys()
    assert segments.read(new).rows == 1
    Gallery.load(folder, model).remove("a").save(folder)
    assert {path: path.stat().st_mtime_ns for path in vectors_in(folder)} == after
    found = Gallery.load(folder, model)
    whole = build(model, pictures()[[1, 2, 5]], ids=["b", "c", "d"], captions=["", "blue", ""])
    assert found.ids == whole.ids
    assert same(found.search(text="red", k=9), whole.search(text="red", k=9))
    assert same(found.search(text="red", image=pictures()[0]), whole.search(text="red", image=pictures()[0]))
    assert [hit.columns for hit in found.search(text="red", where="price == 3")] == [{"price": 3}]


def test_several_changes_of_one_gallery_are_saved_one_after_the_other(folder: Path, model: UniFashionModule) -> None:
    one = Gallery.load(folder, model)
    for i in range(4):
        one.add([pictures()[4 + i]], ids=[f"n{i}"]).remove(IDS[i] if i < 3 else "n0").save(folder)
        assert Gallery.load(folder, model).ids == one.ids
    assert one.ids == ["n1", "n2", "n3"]


def test_what_is_gone_is_written_anew_and_small_files_become_one(
    folder: Path, model: UniFashionModule, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unifashion_pl.gallery.stored.MOST", 3)
    one = Gallery.load(folder, model)
    for i in range(6):
        one.add([pictures()[3 + i]], ids=[f"n{i}"], captions=["blue" if i % 2 else ""]).save(folder)
    assert len(vectors_in(folder)) <= 4
    one.remove(["a", "b"]).save(folder)
    assert sum(segment.rows for segment in store.read(folder).segments.values()) == 7
    found = Gallery.load(folder, model)
    assert found.ids == ["c", *(f"n{i}" for i in range(6))]
    expected = build(model, pictures()[2:], ids=found.ids, captions=["blue", "", "blue", "", "blue", "", "blue"])
    for name, tokens in expected.tokens.items():
        assert torch.allclose(found.tokens[name], tokens, atol=1e-5)
    assert found.caption_vectors is not None
    assert torch.allclose(found.caption_vectors, expected.caption_vectors, atol=1e-5)  # type: ignore[arg-type]


def test_equal_sets_and_absent_captions_take_no_space(model: UniFashionModule, tmp_path: Path) -> None:
    tied = make_model()
    with torch.no_grad():
        tied.backbone.target_query_tokens.copy_(tied.backbone.query_tokens)
    folder = build(tied, pictures(3), ids=IDS, captions=["red", "", ""]).save(tmp_path / "tied")
    (segment,) = store.read(folder).segments.values()
    assert {name: len(one) for name, one in segment.sets.items()} == {"reference": 3, "captions": 1}
    loaded = Gallery.load(folder, tied)
    assert loaded.tokens["target"].equal(loaded.tokens["reference"])
    assert loaded.caption_vectors is not None
    assert loaded.caption_vectors.any(1).tolist() == [True, False, False]


@pytest.mark.parametrize("storage", ["fp32", "fp16", "int8"])
def test_storage_and_pooling_are_kept(model: UniFashionModule, tmp_path: Path, storage: str) -> None:
    exact = build(model, pictures())
    made = build(model, pictures(), storage=storage, pool=2)
    loaded = Gallery.load(made.save(tmp_path / "g"), model)
    loaded.add([pictures()[0]], ids=["again"]).save(tmp_path / "g")
    again = Gallery.load(tmp_path / "g", model)
    assert again.tokens["reference"].shape == (10, 2, 8)
    tolerance = {"fp32": 1e-6, "fp16": 1e-3, "int8": 1e-2}[storage]
    expected = segments.pooled(exact.tokens["reference"].numpy(), 2)
    assert torch.allclose(again.tokens["reference"][:9], torch.from_numpy(expected), atol=tolerance)
    assert store.read(tmp_path / "g").settings.storage == storage


def test_an_empty_gallery_is_one(model: UniFashionModule, folder: Path, tmp_path: Path) -> None:
    assert len(Gallery.load(Gallery(model).save(tmp_path / "none"), model)) == 0
    emptied = Gallery.load(folder, model).remove(IDS)
    assert len(Gallery.load(emptied.save(folder), model).add(pictures(1))) == 1


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_save_that_dies_leaves_the_older_gallery(
    folder: Path, model: UniFashionModule, gallery: Gallery, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An added picture, and one that was replaced by another, which changes no number."""
    changed = Gallery.load(folder, model).remove("a").add([pictures()[5]], ids=["a"])
    places = [(os, "replace"), (store, "follow"), (store, "put_meta")]

    def dying(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*places[moment], dying)
    with pytest.raises(KeyboardInterrupt):
        changed.save(folder)
    monkeypatch.undo()
    found = Gallery.load(folder, model)
    assert found.ids == IDS
    assert all(found.tokens[name].equal(tokens) for name, tokens in gallery.tokens.items())
    changed.save(folder)
    assert Gallery.load(folder, model).ids == ["b", "c", "a"]
    assert len(vectors_in(folder)) <= 2


def test_a_reader_beside_a_writer_has_one_gallery_or_the_other(folder: Path, model: UniFashionModule) -> None:
    """The rows of every load are those of its ids; each save moves the first to the end."""
    expected = {name: build(model, pictures()[[i]]).tokens["target"][0] for i, name in enumerate(IDS)}
    done = threading.Event()
    rows = Gallery.load(folder, model)

    def write() -> None:
        while not done.is_set():
            first = rows.ids[0]
            rows.remove(first).add([pictures()[IDS.index(first)]], ids=[first]).save(folder)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = set()
        for _ in range(150):
            loaded = Gallery.load(folder, model)
            seen.add(tuple(loaded.ids))
            for name, tokens in zip(loaded.ids, loaded.tokens["target"]):
                assert torch.allclose(tokens, expected[name], atol=1e-5)
    finally:
        done.set()
        writer.join()
    assert len(seen) == 3


def test_what_another_process_added_is_not_written_over(folder: Path, model: UniFashionModule, tmp_path: Path) -> None:
    one, two = Gallery.load(folder, model), Gallery.load(folder, model)
    one.add([pictures()[7]], ids=["one"]).save(folder)
    one.remove("a").save(folder)
    with pytest.raises(RuntimeError, match="was changed by another process since it was read: load it again"):
        two.add([pictures()[8]], ids=["two"]).save(folder)
    assert Gallery.load(folder, model).ids == ["b", "c", "one"]
    assert Gallery.load(two.save(tmp_path / "other"), model).ids == [*IDS, "two"]
    fresh = build(model, pictures(1), ids=["fresh"])  # was never read: replaces whatever is there
    assert Gallery.load(fresh.save(folder), model).ids == ["fresh"]


def test_who_holds_the_folder_may_save_into_it(folder: Path, model: UniFashionModule) -> None:
    additions = []

    def add(name: str) -> None:
        with files.exclusive(folder):
            rows = Gallery.load(folder, model)
            time.sleep(0.05)
            rows.add([pictures()[len(rows)]], ids=[name]).save(folder)
        additions.append(name)

    threads = [threading.Thread(target=add, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(additions) == ["t0", "t1", "t2", "t3"]
    assert sorted(Gallery.load(folder, model).ids) == sorted([*IDS, *additions])


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are those of POSIX")
def test_files_have_the_permissions_of_the_umask(gallery: Gallery, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = gallery.save(tmp_path / "shared")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in [*folder.glob("vectors*"), folder / "index.db"]} == {0o640}


def test_an_index_that_another_replaces_is_replaced_whole(folder: Path, model: UniFashionModule) -> None:
    """A build over an index, whatever was there: a damaged one too."""
    build(model, pictures(2), ids=["x", "y"], columns=[{"price": 1}, {}]).save(folder)
    assert Gallery.load(folder, model).columns == {"price": "number"}
    (folder / "index.db").write_bytes(b"no database" * 100)
    build(model, pictures(1), ids=["z"]).save(folder)
    found = Gallery.load(folder, model)
    assert (found.ids, found.columns, len(vectors_in(folder))) == (["z"], {}, 1)


def test_a_disk_that_is_full_or_read_only_is_a_sentence_and_the_index_stays(
    folder: Path, model: UniFashionModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = Gallery.load(folder, model).add([pictures()[7]], ids=["new"])
    for said, expected in (
        ("database or disk is full", "free some space"),
        ("attempt to write a readonly database", "permissions"),
    ):

        def refused(*_: object, said: str = said) -> None:
            raise sqlite3.OperationalError(said)

        monkeypatch.setattr(store, "follow", refused)
        with pytest.raises(files.WriteError, match=rf"cannot write .*index\.db: .*{expected}"):
            changed.save(folder)
        assert Gallery.load(folder, model).ids == IDS
    monkeypatch.undo()
    changed.save(folder)
    assert Gallery.load(folder, model).ids == [*IDS, "new"]
    assert len(vectors_in(folder)) == 2


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE meta SET value = 99 WHERE name = 'format'", "format 99, this version reads 3"),
        ("DELETE FROM meta", "is no index that Gallery.save wrote"),
        ("UPDATE meta SET value = '{}' WHERE name = 'settings'", "required field `query_set`"),
        ("UPDATE segments SET file = '../../etc/passwd'", "expected files of vectors that Gallery.save wrote"),
        ("UPDATE segments SET file = 'vectors-00000000000000000000000000000000.safetensors'", "which is not there"),
        ("DELETE FROM segments", "has rows without vectors"),
        ("UPDATE items SET place = 7 WHERE id = 'b'", "names rows that .* does not have"),
        ("UPDATE items SET place = 'x' WHERE id = 'b'", "is damaged"),
        ("UPDATE items SET captioned = 2 WHERE id = 'b'", "names rows that .* does not have"),
        ("UPDATE items SET caption = x'ff' WHERE id = 'b'", "that are no texts"),
        ("UPDATE items SET caption = CAST(x'ff' AS TEXT) WHERE id = 'b'", "is damaged"),
        ("CREATE TRIGGER t AFTER DELETE ON items BEGIN DELETE FROM meta; END", "is no index"),
        ("DROP TABLE columns", "is no index"),
    ],
)
def test_a_database_that_is_not_one_is_a_sentence(folder: Path, model: UniFashionModule, statement: str, said: str) -> None:
    with closing(sqlite3.connect(folder / "index.db")) as base, base:
        base.execute(statement)
    with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
        Gallery.load(folder, model)
    assert str(folder) in str(error.value)


def test_vectors_of_another_shape_are_a_sentence(folder: Path, tmp_path: Path, model: UniFashionModule) -> None:
    stored = store.read(folder)
    with pytest.raises(ValueError, match="has . tokens of 8 numbers, this model's have . of 16"):
        store.check_shapes(stored, 4, 16)


def test_a_flipped_bit_is_damage(folder: Path, model: UniFashionModule, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = vectors_in(folder)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its vectors are not those that were written"):
        Gallery.load(folder, model)
    monkeypatch.setattr(segments, "SMALL", 1)  # as of a large file, whose digest is compared when that is asked for
    Gallery.load(folder, model)
    with pytest.raises(ValueError, match="is damaged: its vectors are not those that were written"):
        store.check(folder)


def test_no_damage_of_a_database_is_anything_but_a_sentence(folder: Path, model: UniFashionModule) -> None:
    """300 damaged databases and files of vectors: a sentence that names the folder, or an index that answers."""
    chance = random.Random(0)
    places = [folder / "index.db", vectors_in(folder)[0]]
    whole = [path.read_bytes() for path in places]
    said = []
    for turn in range(300):
        which = turn % 2
        data = bytearray(whole[which])
        for _ in range(chance.choice([1, 5, 200])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        places[which].write_bytes(data[: chance.choice([len(data), len(data), chance.randrange(len(data))])])
        try:
            loaded = Gallery.load(folder, model)
            assert not loaded.ids or len(loaded.search(text="a red dress", k=5)) == len(loaded)
            loaded.add(pictures(1), ids=["new"]).remove("new")
        except (ValueError, FileNotFoundError) as error:
            said.append(str(error))
        places[which].write_bytes(whole[which])
    assert len(said) > 150
    assert [text for text in said if str(folder) not in text] == []
    assert Gallery.load(folder, model).ids == IDS


def test_a_first_commit_that_was_cut_off_leaves_no_index(tmp_path: Path) -> None:
    """The files as kill -9 leaves them in the middle of it: pages are in the database already, and a journal takes them back."""
    (tmp_path / "index").mkdir()
    with closing(sqlite3.connect(tmp_path / "index.db", isolation_level=None)) as base:
        base.execute("PRAGMA cache_size = 1")
        base.execute("BEGIN IMMEDIATE")
        base.execute("CREATE TABLE meta (name, value)")
        for _ in range(100):
            base.execute("INSERT INTO meta VALUES ('x', zeroblob(5000))")
        for name in ("index.db", "index.db-journal"):
            (tmp_path / "index" / name).write_bytes((tmp_path / name).read_bytes())
    assert (tmp_path / "index" / "index.db").stat().st_size > 0
    assert not store.is_new(tmp_path / "index")


def state(folder: Path) -> list[str]:
    return store.read(folder).rows.ids()


def killed_while(work: Callable[[], None], after: float) -> None:
    """A process that repeats ``work`` until it is killed outright."""
    tqdm.set_lock(threading.RLock())  # the usual one is shared with forked processes: who is killed with it keeps it for good
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        try:
            while True:
                work()
        finally:
            os._exit(1)  # an error of the work: the assertion below sees it
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed as POSIX does")
@pytest.mark.parametrize("action", ["build", "add", "replace", "remove"])
def test_20_of_20_kills_leave_an_index(
    model: UniFashionModule, tmp_path: Path, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at random moments, an index is the one before or the one after, every id with its own vectors."""
    monkeypatch.setattr("unifashion_pl.commands.options.Model.load", lambda _: model)
    index, vectors = tmp_path / "index", build(model, pictures()).tokens["reference"]
    for i, picture in enumerate(pictures()):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")

    def run(what: str, rows: dict[str, int], *options: str) -> None:
        (tmp_path / "items.csv").write_text("image,id\n" + "".join(f"{i}.png,{name}\n" for name, i in rows.items()))
        where = ["--out", str(index)] if what == "build" else []
        main(
            [
                "index",
                what,
                *([] if where else [str(index)]),
                "--csv",
                str(tmp_path / "items.csv"),
                "--root",
                str(tmp_path),
                *where,
                *options,
            ]
        )

    turn = itertools.count()

    def change() -> None:
        ids, picture = state(index), next(turn) % 2 * 3
        if action == "build":
            run("build", {"a": picture, "b": 1})
        elif action == "replace":
            run("add", {"a": picture}, "--replace")
        elif "c" in ids:
            main(["index", "remove", str(index), "c"])
        else:
            run("add", {"c": 2})

    run("build", {"a": 0, "b": 1, **({"c": 2} if action == "remove" else {})})
    chance = random.Random(action)
    for _ in range(20):
        killed_while(change, chance.uniform(0.02, 0.5))
        found = Gallery.load(index, model)
        assert {"a", "b"} <= set(found.ids) <= set(IDS)
        for name, tokens in zip(found.ids, found.tokens["reference"]):
            known = {"a": (0, 3), "b": (1,), "c": (2,)}[name]
            assert any(torch.allclose(tokens, vectors[i], atol=1e-5) for i in known), name
    run("build", {"a": 0})
    assert len(vectors_in(index)) == 1
    assert not list(index.glob("*.part"))
