"""Galleries of older forms: read as they are, new ones when changed, and no damage that is not a sentence."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from galleries import IDS, same
from safetensors.torch import load_file, save_file

from unifashion_pl.files import write_tensors
from unifashion_pl.gallery import Gallery, legacy, store
from unifashion_pl.inference.encode import fingerprint
from unifashion_pl.module import UniFashionModule


@pytest.fixture
def folder(gallery: Gallery, tmp_path: Path) -> Path:
    """As it was written before there was a database."""
    folder = tmp_path / "index"
    tensors = {f"tokens.{name}": tokens for name, tokens in gallery.tokens.items()}
    assert gallery.caption_vectors is not None
    tensors["captions"] = gallery.caption_vectors
    write_tensors(folder / legacy._name_for(tensors), tensors)
    told = {"query_set": "both", "model": fingerprint(gallery.model), "ids": gallery.ids, "captions": gallery.captions}
    content = {"format": 2, **told, "tensors": legacy._name_for(tensors)}
    (folder / "gallery.json").write_text(json.dumps(content))
    return folder


def tensors_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("gallery*.safetensors"))


def as_format_1(folder: Path) -> Path:
    """The folder as it was written before the description named its tensors."""
    content = json.loads((folder / "gallery.json").read_text())
    (folder / content.pop("tensors")).rename(folder / "gallery.safetensors")
    (folder / "gallery.json").write_text(json.dumps({**content, "format": 1}))
    return folder


@pytest.mark.parametrize("old", [False, True])
def test_older_galleries_load_and_become_new_ones(folder: Path, model: UniFashionModule, gallery: Gallery, old: bool) -> None:
    loaded = Gallery.load(as_format_1(folder) if old else folder, model)
    assert (loaded.ids, loaded.captions) == (gallery.ids, gallery.captions)
    assert all(loaded.tokens[name].equal(tokens) for name, tokens in gallery.tokens.items())
    assert same(loaded.search(text="a red dress"), gallery.search(text="a red dress"))
    assert loaded.search(text="a red dress", k=3)[0].caption == gallery.search(text="a red dress", k=3)[0].caption
    loaded.remove("b").save(folder)
    assert Gallery.load(folder, model).ids == ["a", "c"]
    assert sorted(path.name.partition("-")[0] for path in folder.iterdir()) == [".lock", "index.db", "vectors"]


def test_an_older_gallery_may_be_changed_without_its_model(folder: Path, model: UniFashionModule, gallery: Gallery) -> None:
    assert store.take_out(folder, ["a"]) == 2
    found = Gallery.load(folder, model)
    assert found.ids == ["b", "c"]
    assert found.tokens["target"].equal(gallery.tokens["target"][1:])
    assert found.caption_vectors is not None
    assert torch.equal(found.caption_vectors, gallery.caption_vectors[1:])  # type: ignore[index]


def test_an_older_gallery_that_another_process_changed_is_not_written_over(folder: Path, model: UniFashionModule) -> None:
    one, two = Gallery.load(folder, model), Gallery.load(folder, model)
    one.remove("a").save(folder)
    with pytest.raises(RuntimeError, match="changed by another process"):
        two.remove("b").save(folder)


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
    name = legacy._name_for(tensors)
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


def test_vectors_of_another_type_are_damage(folder: Path, model: UniFashionModule) -> None:
    (path,) = tensors_in(folder)
    write_tensors(path, {name: tensor.bfloat16() for name, tensor in load_file(path).items()})
    with pytest.raises(ValueError, match="is damaged: its vectors are not those that were written"):
        Gallery.load(folder, model)
