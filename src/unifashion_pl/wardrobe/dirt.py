"""Dirt on request: what is wrong with real copies of the datasets, done to a wardrobe, so that readers and checks can be tried.

Which files are hit depends on (seed, dataset, split, kind) only; ``dirt.json`` says what was done to which file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unifashion_pl.data.formats import encode
from unifashion_pl.wardrobe.layouts import hdf5

#: Kinds that make a picture unusable -> the reason that a check has to give.
DAMAGES = {"missing": "missing", "truncated": "truncated", "zero-byte": "empty file", "html": "text/html, not an image"}
#: Kinds that leave a picture usable, but not plain RGB.
MODES = ("grey", "cmyk", "palette", "exif")
UNICODE = "Café robe à pois – 赤いドレス ✓ naïve"
#: Kinds that concern texts -> the text instead.
TEXTS = {"unicode": UNICODE, "empty-text": ""}
KINDS = (*DAMAGES, "duplicate", *MODES, *TEXTS)
PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
TRAIN, HELD_OUT = "train", "evaluation"


@dataclass(frozen=True)
class Stain:
    """One thing that was done.

    Attributes:
        dataset: folder of the wardrobe.
        split: ``train`` or ``evaluation``.
        kind: of :data:`KINDS`.
        file: below the wardrobe; for texts the annotation file.
        id: the image's or entry's id.
        reason: what a check has to report, "" if the file stays usable.
        other: the id whose pixels were copied (``duplicate``), "" else.
    """

    dataset: str
    split: str
    kind: str
    file: str
    id: str
    reason: str = ""
    other: str = ""


def soil(root: Path, kinds: Sequence[str], seed: int) -> list[Stain]:
    """Dirty a finished wardrobe in place and write ``dirt.json``.

    Every kind hits one picture of each split of each dataset, as long as at least half of a split's pictures stay as they were.
    """
    stains: list[Stain] = []
    for dataset, (train, held_out, pictures) in PICTURES.items():
        if (root / dataset).is_dir():
            found = {TRAIN: pictures(root / dataset, train), HELD_OUT: pictures(root / dataset, held_out)}
            found[TRAIN] = {id: path for id, path in found[TRAIN].items() if id not in found[HELD_OUT]}
            stains += _soil_pictures(root, dataset, found, kinds, seed)
    for dataset, write in WRITERS.items():
        for number, (kind, text) in enumerate(TEXTS.items()):
            if kind in kinds and (root / dataset).is_dir():
                places = write(root / dataset, number, text)
                stains += [Stain(dataset, split, kind, f"{dataset}/{file}", id) for split, file, id in places]
    for split, name in ((TRAIN, "train"), (HELD_OUT, "validation")) if "duplicate" in kinds else ():
        path = root / "fashiongen" / f"fashiongen_256_256_{name}.h5"
        if path.is_file():  # its last row gets the pixels of the first
            with hdf5(path, "r+") as file:
                last = len(file["input_image"]) - 1
                file["input_image"][last] = np.asarray(file["input_image"][0])
            stains.append(Stain("fashiongen", split, "duplicate", f"fashiongen/{path.name}", f"r{last:07d}", "", "r0000000"))
    content = json.dumps([asdict(stain) for stain in stains], indent=1, ensure_ascii=False)
    (root / "dirt.json").write_text(content + "\n", "utf-8")
    return stains


def _soil_pictures(
    root: Path, dataset: str, pictures: dict[str, dict[str, Path]], kinds: Sequence[str], seed: int
) -> list[Stain]:
    stains = []
    spare: dict[str, list[str]] = {}
    for split, found in pictures.items():
        ids = sorted(found)
        random.Random(f"{seed}/dirt/{dataset}/{split}").shuffle(ids)
        spare[split] = ids
        for kind in (kind for kind in kinds if kind not in TEXTS):
            if len(ids) <= max(2, len(found) // 2):
                break
            id = ids.pop()
            path = found[id]
            other = ids.pop() if kind == "duplicate" else ""
            if other:
                path.write_bytes(found[other].read_bytes())
            elif kind == "missing":
                path.unlink()
            else:
                path.write_bytes(SPOILED[kind](path.read_bytes()))
            stains.append(Stain(dataset, split, kind, path.relative_to(root).as_posix(), id, DAMAGES.get(kind, ""), other))
    if "duplicate" in kinds and all(len(ids) > 1 for ids in spare.values()):
        other, id = spare[TRAIN].pop(), spare[HELD_OUT].pop()
        path = pictures[HELD_OUT][id]
        path.write_bytes(pictures[TRAIN][other].read_bytes())
        stains.append(Stain(dataset, HELD_OUT, "duplicate", path.relative_to(root).as_posix(), id, "", other))
    return stains


def _turned(image: Image.Image) -> bytes:
    """EXIF orientation 6: the file holds the picture turned by 90° against the clock, and says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(image.convert("RGB").transpose(Image.Transpose.ROTATE_90), "JPEG", quality=92, exif=exif)


#: Kind -> what becomes of a file's bytes; of a picture for :data:`MODES`.
SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "zero-byte": lambda data: b"",
    "html": lambda data: PAGE,
    "grey": lambda data: encode(Image.open(BytesIO(data)).convert("L"), "JPEG", quality=92),
    "cmyk": lambda data: encode(Image.open(BytesIO(data)).convert("CMYK"), "JPEG", quality=92),
    "palette": lambda data: encode(Image.open(BytesIO(data)).convert("RGB").quantize(64), "PNG"),
    "exif": lambda data: _turned(Image.open(BytesIO(data))),
}


# pictures of each dataset's split: id -> file


def _fashion200k(root: Path, split: str) -> dict[str, Path]:
    lines = [line for p in (root / "labels").glob(f"*_{split}_*.txt") for line in p.read_text("utf-8").splitlines()]
    return {path.stem: path for path in (root / line.split("\t")[0] for line in lines)}


def _fashioniq(root: Path, split: str) -> dict[str, Path]:
    entries = [e for p in (root / "captions").glob(f"cap.*.{split}.json") for e in json.loads(p.read_text("utf-8"))]
    return {id: root / "images" / f"{id}.jpg" for entry in entries for id in (entry["candidate"], entry["target"])}


def _vitonhd(root: Path, split: str) -> dict[str, Path]:
    return {path.stem: path for path in (root / split / "image").glob("*.jpg")}


def _dresscode(root: Path, pairs: str) -> dict[str, Path]:
    lines = [(p.parent, line.split()[0]) for p in root.glob(f"*/{pairs}.txt") for line in p.read_text("utf-8").splitlines()]
    return {person.partition("_")[0]: folder / "images" / person for folder, person in lines}


#: Dataset -> how its files call training and evaluation, and their pictures.
PICTURES: dict[str, tuple[str, str, Callable[[Path, str], dict[str, Path]]]] = {
    "fashion200k": ("train", "test", _fashion200k),
    "fashion-iq": ("train", "val", _fashioniq),
    "viton-hd": ("train", "test", _vitonhd),
    "mgd/dresscode": ("train_pairs", "test_pairs_paired", _dresscode),
}


# texts of each dataset, the one at a position: (split, annotation file, id) of what was changed


def _fashion200k_text(root: Path, number: int, text: str) -> list[tuple[str, str, str]]:
    path = root / "labels/dress_train_detect_all.txt"
    lines = path.read_text("utf-8").splitlines()
    image, score, _ = lines[number].split("\t")
    lines[number] = f"{image}\t{score}\t{text}"
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return [(TRAIN, path.relative_to(root).as_posix(), Path(image).stem)]


def _fashioniq_text(root: Path, number: int, text: str) -> list[tuple[str, str, str]]:
    done = []
    for split, name in ((TRAIN, "train"), (HELD_OUT, "val")):
        path = root / f"captions/cap.shirt.{name}.json"
        entries = json.loads(path.read_text("utf-8"))
        entries[number]["captions"][0] = text
        path.write_text(json.dumps(entries, ensure_ascii=False, indent=1), "utf-8")
        done.append((split, path.relative_to(root).as_posix(), f"shirt-{name}-{number:05d}"))
    return done


def _vitonhd_text(root: Path, number: int, text: str) -> list[tuple[str, str, str]]:
    path = root / "captions.json"
    phrases: dict[str, Any] = json.loads(path.read_text("utf-8"))
    garment = sorted(phrases)[number]
    phrases[garment] = [text, *phrases[garment][1:]] if text else []
    path.write_text(json.dumps(phrases, indent=1, sort_keys=True, ensure_ascii=False), "utf-8")
    return [(TRAIN, path.name, f"{garment}_00")]


def _fashiongen_text(root: Path, number: int, text: str) -> list[tuple[str, str, str]]:
    path = root / "fashiongen_256_256_train.h5"
    with hdf5(path, "r+") as file:
        column = file["input_description"][:]
        column = column.astype(f"S{max(column.dtype.itemsize, len(text.encode()))}")
        column[number] = text.encode()
        del file["input_description"]
        file.create_dataset("input_description", data=column)
    return [(TRAIN, path.name, f"r{number:07d}")]


WRITERS: dict[str, Callable[[Path, int, str], list[tuple[str, str, str]]]] = {
    "fashiongen": _fashiongen_text,
    "fashion200k": _fashion200k_text,
    "fashion-iq": _fashioniq_text,
    "viton-hd": _vitonhd_text,
}
