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

from unifashion_pl.wardrobe.layouts import hdf5

#: Kinds that make a picture unusable -> the reason that a check has to give.
DAMAGES = {"missing": "missing", "truncated": "truncated", "zero-byte": "empty file", "html": "text/html, not an image"}
#: Kinds that leave a picture usable, but not plain RGB.
MODES = ("grey", "cmyk", "palette", "exif")
#: Kinds that concern texts.
TEXTS = ("unicode", "empty-text")
KINDS = (*DAMAGES, "duplicate", *MODES, *TEXTS)
UNICODE = "Café robe à pois – 赤いドレス ✓ naïve"
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
    for dataset, pictures in PICTURES.items():
        if (root / dataset).is_dir():
            stains += _soil_pictures(root, dataset, pictures(root / dataset), kinds, seed)
    for dataset, write in WRITERS.items():
        if (root / dataset).is_dir():
            for kind in TEXTS:
                if kind in kinds:
                    stains += [Stain(dataset, s, kind, f"{dataset}/{file}", id) for s, file, id in write(root / dataset, kind)]
    if "duplicate" in kinds and (root / "fashiongen").is_dir():
        stains += _double_row(root / "fashiongen")
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
            else:
                _spoil(path, kind)
            stains.append(Stain(dataset, split, kind, path.relative_to(root).as_posix(), id, DAMAGES.get(kind, ""), other))
    if "duplicate" in kinds and all(len(ids) > 1 for ids in spare.values()):
        other, id = spare[TRAIN].pop(), spare[HELD_OUT].pop()
        path = pictures[HELD_OUT][id]
        path.write_bytes(pictures[TRAIN][other].read_bytes())
        stains.append(Stain(dataset, HELD_OUT, "duplicate", path.relative_to(root).as_posix(), id, "", other))
    return stains


def _spoil(path: Path, kind: str) -> None:
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "zero-byte":
        path.write_bytes(b"")
    elif kind == "html":
        path.write_bytes(PAGE)
    else:
        path.write_bytes(_in_mode(Image.open(BytesIO(data)), kind))


def _in_mode(image: Image.Image, kind: str) -> bytes:
    buffer = BytesIO()
    if kind == "grey":
        image.convert("L").save(buffer, "JPEG", quality=92)
    elif kind == "cmyk":
        image.convert("CMYK").save(buffer, "JPEG", quality=92)
    elif kind == "palette":
        image.convert("RGB").quantize(64).save(buffer, "PNG")
    else:
        # exif, orientation 6: the file holds the picture turned by 90° against the clock, and says so
        exif = Image.Exif()
        exif[0x0112] = 6
        image.convert("RGB").transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()


# pictures of each dataset: split -> id -> file


def _fashion200k(root: Path) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for split, name in ((TRAIN, "train"), (HELD_OUT, "test")):
        lines = [line for p in sorted((root / "labels").glob(f"*_{name}_*.txt")) for line in p.read_text("utf-8").splitlines()]
        paths = [root / line.split("\t")[0] for line in lines]
        found[split] = {path.stem: path for path in paths}
    return found


def _fashioniq(root: Path) -> dict[str, dict[str, Path]]:
    ids: dict[str, set[str]] = {TRAIN: set(), HELD_OUT: set()}
    for split, name in ((TRAIN, "train"), (HELD_OUT, "val")):
        for path in (root / "captions").glob(f"cap.*.{name}.json"):
            ids[split] |= {e[k] for e in json.loads(path.read_text("utf-8")) for k in ("candidate", "target")}
    ids[TRAIN] -= ids[HELD_OUT]
    return {split: {id: root / "images" / f"{id}.jpg" for id in found} for split, found in ids.items()}


def _vitonhd(root: Path) -> dict[str, dict[str, Path]]:
    return {
        split: {p.stem: p for p in (root / name / "image").glob("*.jpg")}
        for split, name in ((TRAIN, "train"), (HELD_OUT, "test"))
    }


def _dresscode(root: Path) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {TRAIN: {}, HELD_OUT: {}}
    for split, name in ((TRAIN, "train_pairs.txt"), (HELD_OUT, "test_pairs_paired.txt")):
        for path in root.glob(f"*/{name}"):
            for line in path.read_text("utf-8").splitlines():
                person = line.split()[0]
                found[split][person.partition("_")[0]] = path.parent / "images" / person
    return found


PICTURES: dict[str, Callable[[Path], dict[str, dict[str, Path]]]] = {
    "fashion200k": _fashion200k,
    "fashion-iq": _fashioniq,
    "viton-hd": _vitonhd,
    "mgd/dresscode": _dresscode,
}


# texts of each dataset: (split, annotation file, id) of what was changed


def _fashion200k_text(root: Path, kind: str) -> list[tuple[str, str, str]]:
    path = root / "labels/dress_train_detect_all.txt"
    lines = path.read_text("utf-8").splitlines()
    number = TEXTS.index(kind)
    image, score, _ = lines[number].split("\t")
    lines[number] = f"{image}\t{score}\t{UNICODE if kind == 'unicode' else ''}"
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return [(TRAIN, path.relative_to(root).as_posix(), Path(image).stem)]


def _fashioniq_text(root: Path, kind: str) -> list[tuple[str, str, str]]:
    done = []
    for split, name in ((TRAIN, "train"), (HELD_OUT, "val")):
        path = root / f"captions/cap.shirt.{name}.json"
        entries = json.loads(path.read_text("utf-8"))
        number = TEXTS.index(kind)
        entries[number]["captions"][0] = UNICODE if kind == "unicode" else ""
        path.write_text(json.dumps(entries, ensure_ascii=False, indent=1), "utf-8")
        done.append((split, path.relative_to(root).as_posix(), f"shirt-{name}-{number:05d}"))
    return done


def _vitonhd_text(root: Path, kind: str) -> list[tuple[str, str, str]]:
    path = root / "captions.json"
    phrases: dict[str, Any] = json.loads(path.read_text("utf-8"))
    garment = sorted(phrases)[TEXTS.index(kind)]
    phrases[garment] = [UNICODE, *phrases[garment][1:]] if kind == "unicode" else []
    path.write_text(json.dumps(phrases, indent=1, sort_keys=True, ensure_ascii=False), "utf-8")
    return [(TRAIN, path.name, f"{garment}_00")]


def _fashiongen_text(root: Path, kind: str) -> list[tuple[str, str, str]]:
    path = root / "fashiongen_256_256_train.h5"
    number = TEXTS.index(kind)
    with hdf5(path, "r+") as file:
        column = file["input_description"][:]
        text = UNICODE.encode() if kind == "unicode" else b""
        column = column.astype(f"S{max(column.dtype.itemsize, len(text))}")
        column[number] = text
        del file["input_description"]
        file.create_dataset("input_description", data=column)
    return [(TRAIN, path.name, f"r{number:07d}")]


WRITERS: dict[str, Callable[[Path, str], list[tuple[str, str, str]]]] = {
    "fashiongen": _fashiongen_text,
    "fashion200k": _fashion200k_text,
    "fashion-iq": _fashioniq_text,
    "viton-hd": _vitonhd_text,
}


def _double_row(root: Path) -> list[Stain]:
    """The last row of a file gets the pixels of the first."""
    stains = []
    for split, name in ((TRAIN, "train"), (HELD_OUT, "validation")):
        path = root / f"fashiongen_256_256_{name}.h5"
        with hdf5(path, "r+") as file:
            last = len(file["input_image"]) - 1
            file["input_image"][last] = np.asarray(file["input_image"][0])
        stains.append(Stain("fashiongen", split, "duplicate", f"fashiongen/{path.name}", f"r{last:07d}", "", "r0000000"))
    return stains
