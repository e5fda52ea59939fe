"""The folder of a gallery: old or new whatever happens, one writer, and no damage that is not a sentence."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from galleries import make_model, pictures
from PIL import Image
from safetensors.torch import load_file, save_file

from unifashion_pl import files
from unifashion_pl.cli import main
from unifashion_pl.files import write_tensors
from unifashion_pl.gallery import Gallery, store
from unifashion_pl.gallery import gallery_of as build
from unifashion_pl.module import UniFashionModule

IDS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def model() -> UniFashionModule:
    return make_model()


@pytest.fixture
def gallery(model: UniFashionModule) -> Gallery:
    return build(model, pictures(3), ids=IDS, captions=["red", "", "blue"])


@pytest.fixture
def folder(gallery: Gallery, tmp_path: Path) -> Path:
    return gallery.save(tmp_path / "index")


def tensors_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("gallery*.safetensors"))


def as_format_1(folder: Path) -> Path:
    """The folder as it was written before the description named its tensors."""
    content = json.loads((folder / "gallery.json").read_text())
    (folder / content.pop("tensors")).rename(folder / "gallery.safetensors")
    (folder / "gallery.json").write_text(json.dumps({**content, "format": 1}))
    return folder


def test_galleries_of_format_1_load_and_become_new_ones(folder: Path, model: UniFashionModule, gallery: Gallery) -> None:
    loaded = Gallery.load(as_format_1(folder), model)
    assert (loaded.ids, loaded.captions) == (gallery.ids, gallery.captions)
    assert all(loaded.tokens[name].equal(tokens) for name, tokens in gallery.tokens.items())
    loaded.remove("b").save(folder)
    assert Gallery.load(folder, model).ids == ["a", "c"]
    assert [path.name for path in tensors_in(folder)] == [json.loads((folder / "gallery.json").read_text())["tensors"]]


def test_an_empty_gallery_is_one(model: UniFashionModule, folder: Path, tmp_path: Path) -> None:
    assert len(Gallery.load(Gallery(model).save(tmp_path / "none"), model)) == 0
    emptied = Gallery.load(folder, model).remove(IDS)
    assert len(Gallery.load(emptied.save(folder), model).add(pictures(1))) == 1


@pytest.mark.parametrize("moment", [1, 2])
def test_a_save_that_dies_leaves_the_older_gallery(
    folder: Path, model: UniFashionModule, gallery: Gallery, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An added picture, and one that was replaced by another, which changes no number."""
    changed = Gallery.load(folder, model).remove("a").add([pictures()[5]], ids=["a"])
    calls, real = [], os.replace

    def dying(one: Any, two: Any) -> None:
        calls.append(two)
        if len(calls) == moment:
            raise KeyboardInterrupt
        real(one, two)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        changed.save(folder)
    monkeypatch.undo()
    found = Gallery.load(folder, model)
    assert found.ids == IDS
    assert all(found.tokens[name].equal(tokens) for name, tokens in gallery.tokens.items())
    changed.save(folder)
    assert Gallery.load(folder, model).ids == ["b", "c", "a"]
    assert len(tensors_in(folder)) == 1


def test_a_reader_beside_a_writer_has_one_gallery_or_the_other(folder: Path, model: UniFashionModule) -> None:
    """The rows of every load are those of its ids; each save turns them round."""
    expected = {name: build(model, pictures()[[i]]).tokens["target"][0] for i, name in enumerate(IDS)}
    done = threading.Event()
    rows = Gallery.load(folder, model)

    def write() -> None:
        while not done.is_set():
            rows.ids.reverse()
            rows.captions.reverse()
            rows.tokens = {name: tokens.flip(0) for name, tokens in rows.tokens.items()}
            rows.caption_vectors = rows.caption_vectors.flip(0) if rows.caption_vectors is not None else None
            rows.save(folder)

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
    assert len(seen) == 2


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
    assert {path.stat().st_mode & 0o777 for path in folder.glob("gallery*")} == {0o640}


def edited(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "gallery.json").read_text())
    content |= changes
    (folder / "gallery.json").write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ids": ["a", "b", "a"]}, r"gallery\.json: ids must be unique, found several times: 'a'"),
        ({"ids": ["a"], "captions": [""]}, r"captions is torch\.float32 of shape \(3, 8\), expected .*\(1, 8\) for 1 ids"),
        ({"captions": []}, r"gallery\.json: captions has 0 entries for 3 ids"),
        (
            {"captions": ["", None, ""]},
            r"gallery\.json is not the gallery\.json of a gallery: .*`str`, got `null` - at `\$\.captions",
        ),
        ({"ids": [1, 2, 3]}, r"Expected `str`, got `int` - at `\$\.ids"),
        ({"ids": ...}, "required field `ids`"),
        ({"query_set": "all"}, r"Invalid enum value 'all' - at `\$\.query_set`"),
        (
            {"query_set": "reference"},
            r"holds captions, tokens\.reference, tokens\.target, expected captions, tokens\.reference$",
        ),
        ({"format": 99}, "has format 99, this version reads 1 and 2"),
        ({"format": "2"}, r"Expected `int`, got `str` - at `\$\.format`"),
        ({"format": True}, r"Expected `int`, got `bool`"),
        ({"tensors": "../index/gallery.safetensors"}, "tensors is '../index/gallery.safetensors', expected the name of a file"),
        ({"tensors": "/etc/passwd"}, "expected the name of a file that Gallery.save wrote beside it"),
        ({"tensors": "gallery-0123456789abcdef.safetensors"}, "names gallery-0123456789abcdef.safetensors, which is not there"),
        ({"model": "another"}, "made by another model"),
    ],
)
def test_a_description_that_is_not_one_is_a_sentence(
    folder: Path, model: UniFashionModule, changes: dict[str, Any], said: str
) -> None:
    edited(folder, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        Gallery.load(folder, model)


def changed_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Other tensors under a name that fits them, as a program that means harm would write them."""
    (path,) = tensors_in(folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    path.unlink()
    name = store._name_for(tensors)
    save_file(tensors, folder / name)
    edited(folder, tensors=name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["tokens.target"][1].fill_(float("nan")), r"tokens\.target has NaN or infinite numbers for 'b'"),
        (lambda t: t["captions"][2].fill_(float("inf")), "captions has NaN or infinite numbers for 'c'"),
        (
            lambda t: t.pop("tokens.reference"),
            "holds captions, tokens.target, expected captions, tokens.reference, tokens.target",
        ),
        (lambda t: t.clear(), "holds nothing, expected captions"),
        (lambda t: t.update(captions=t["captions"].half()), "captions is torch.float16 of shape"),
        (lambda t: t.update(captions=torch.zeros(3, 5)), r"captions is .* \(3, 5\), expected torch.float32 of \(3, 8\)"),
        (lambda t: t.update({"tokens.target": torch.zeros(3, 9, 8)}), r"\(3, 9, 8\), expected torch.float32 of \(3, 4, 8\)"),
        (lambda t: t.update({"tokens.target": torch.zeros(3)}), r"of shape \(3,\), expected"),
    ],
)
def test_tensors_that_are_not_the_model_s_are_a_sentence(
    folder: Path, model: UniFashionModule, change: Callable[[dict[str, torch.Tensor]], object], said: str
) -> None:
    changed_tensors(folder, change)
    with pytest.raises(ValueError, match=said):
        Gallery.load(folder, model)


def test_a_flipped_bit_is_damage(folder: Path, model: UniFashionModule) -> None:
    (path,) = tensors_in(folder)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its vectors are not those that were written"):
        Gallery.load(folder, model)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, cut, doubled or put in."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(out) or 1)
        kind = chance.randrange(6)
        if kind == 0 and out:
            out[at % len(out)] = chance.randrange(256)
        elif kind == 1:
            del out[at : at + chance.randrange(1, 40)]
        elif kind == 2:
            out[at:at] = chance.choice(
                [b"\x00", b"-1", b"1e999", b"null", b"[[[[", b'"', b"NaN", b"99999999999999999999", b"\xff\xfe"]
            )
        elif kind == 3:
            out[at:at] = out[at : at + chance.randrange(1, 200)]
        elif kind == 4:
            out = out[:at]
        else:
            out[:8] = struct.pack("<Q", chance.choice([0, 1, 2**31, 2**63, chance.randrange(4000)]))
    return bytes(out)


@pytest.mark.parametrize("old", [False, True])
def test_no_damage_is_anything_but_a_sentence(folder: Path, model: UniFashionModule, old: bool) -> None:
    """400 damaged folders of each format: a sentence that names the folder, or the gallery as it was."""
    chance = random.Random(old)
    place = folder / "gallery.json", tensors_in(as_format_1(folder) if old else folder)[0]
    whole = [path.read_bytes() for path in place]
    sentences = []
    for turn in range(400):
        which = turn % 2
        place[which].write_bytes(mutated(whole[which], chance))
        try:
            loaded = Gallery.load(folder, model)
        except (ValueError, FileNotFoundError) as error:
            sentences.append(str(error))
        else:
            assert not loaded.ids or len(loaded.search(text="a red dress", k=5)) == len(loaded)
        place[which].write_bytes(whole[which])
    assert len(sentences) > 300
    assert [said for said in sentences if str(folder) not in said] == []
    assert Gallery.load(folder, model).ids == IDS


def killed_while(work: Callable[[], None], after: float) -> None:
    """A process that repeats ``work`` until it is killed outright."""
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
        ids, picture = json.loads((index / "gallery.json").read_text())["ids"], next(turn) % 2 * 3
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
    assert len(tensors_in(index)) == 1
    assert not list(index.glob("*.part"))


def test_vectors_of_another_type_are_damage(folder: Path, model: UniFashionModule) -> None:
    (path,) = tensors_in(folder)
    write_tensors(path, {name: tensor.bfloat16() for name, tensor in load_file(path).items()})
    with pytest.raises(ValueError, match="is damaged: its vectors are not those that were written"):
        Gallery.load(folder, model)
