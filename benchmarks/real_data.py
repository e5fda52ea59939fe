"""The CC0 clothing photos as a catalogue, and what every measurement on them shares: rows, embeddings, lines with intervals.

    python benchmarks/real_data.py --clothing FOLDER --out work

FOLDER holds the photos as ``clothing-*.tar`` and ``clothing.csv`` (image, label, sender_id, split, label_small). What is made of it in
``work`` is ``photos/`` and ``items.csv``:

=========  ============================================================================================================
image, id  the file below ``photos``, and its name without extension
title      "a photo of a {category}"
text       "a photo of a {colour} {category}"; both are **derived**, nobody wrote them
category   the garment: ``label_small`` where the photo is in the ten-class subset, which mends labels, else ``label``, in words
colour     the basic colour term next to the median colour of the middle of the photo, measured
sender     who took it; photos of one sender share background and light, so what is held out is held out by sender
split      ``test`` for the official validation photos, which no training and no choice may see; empty for all others, of
           which ``unifashion adapt --group sender`` would keep some senders for itself. 113 of the 122 senders of the test also
           sent training photos: figures of it flatter, see the source's description
=========  ============================================================================================================
"""

from __future__ import annotations

import argparse
import csv
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.color import rgb2lab
from torch import Tensor

from unifashion_pl import UniFashionModule
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.metrics.intervals import wilson_interval

Row = dict[str, str]

#: Basic colour terms as sRGB; the nearest in Lab names the colour.
COLOURS = {
    "black": (25, 25, 28),
    "white": (235, 235, 232),
    "grey": (135, 135, 135),
    "red": (170, 35, 40),
    "pink": (225, 150, 165),
    "orange": (215, 120, 50),
    "yellow": (220, 195, 80),
    "green": (60, 105, 65),
    "blue": (70, 105, 165),
    "navy": (35, 42, 72),
    "purple": (105, 70, 120),
    "brown": (105, 75, 55),
    "beige": (200, 180, 150),
}
WORDS = {
    "longsleeve": "long sleeve top",
    "outwear": "piece of outerwear",
    "pants": "pair of pants",
    "shorts": "pair of shorts",
    "shoes": "pair of shoes",
}
COLUMNS = ("image", "title", "text", "id", "category", "colour", "sender", "split")
#: Split of the source -> ours. Its ``extra`` belongs to neither.
SPLITS = {"train": "", "validation": "test"}


def measured_colour(image: Image.Image) -> str:
    """Name of the median colour of the middle 40 % of a photo, where the garment lies."""
    w, h = image.size
    middle = np.asarray(image.convert("RGB").crop((int(w * 0.3), int(h * 0.3), int(w * 0.7), int(h * 0.7))))
    median = np.median(rgb2lab(middle).reshape(-1, 3), axis=0)
    known = rgb2lab(np.array([list(COLOURS.values())], np.uint8))[0]
    return list(COLOURS)[int(np.linalg.norm(known - median, axis=1).argmin())]


def noun(label: str) -> str:
    """The garment in words."""
    return WORDS.get(label, label)


def prepare(clothing: Path, out: Path) -> Path:
    """Unpack the photos of train and test and write ``items.csv``; done once, what is there already is taken."""
    target = out / "items.csv"
    if target.is_file():
        return target
    (out / "photos").mkdir(parents=True, exist_ok=True)
    with (clothing / "clothing.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] in SPLITS]
    wanted = {row["image"] for row in rows}
    colours: dict[str, str] = {}
    for tar in sorted(clothing.glob("clothing-*.tar")):
        with tarfile.open(tar) as archive:
            for member in archive:
                if member.name in wanted and (content := archive.extractfile(member)) is not None:
                    path = out / "photos" / member.name
                    path.write_bytes(content.read())
                    with Image.open(path) as image:
                        colours[member.name] = measured_colour(image)
    part = target.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(_described(row, colours[row["image"]]) for row in rows)
    part.replace(target)
    print(f"{len(rows):,} photos, texts derived from label and measured colour -> {target}")
    return target


def _described(row: Row, colour: str) -> Row:
    label = noun((row["label_small"] or row["label"]).lower())
    title, text = f"a photo of a {label}", f"a photo of a {colour} {label}"
    named = {"category": label, "colour": colour, "sender": row["sender_id"], "split": SPLITS[row["split"]]}
    return {"image": row["image"], "id": Path(row["image"]).stem, "title": title, "text": text, **named}


def photos(out: Path, test: bool) -> list[Row]:
    """Rows of ``items.csv``: of the test, or all others."""
    with (out / "items.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if (row["split"] == "test") == test]


def positives(asked: Sequence[str], answers: Sequence[str]) -> Tensor:
    """(queries, gallery) bool: which photos have what was asked for."""
    return torch.tensor([[answer == one for answer in answers] for one in asked])


@torch.inference_mode()
def embed(model: UniFashionModule, out: Path, rows: Sequence[Row], batch: int = 64) -> tuple[Tensor, Tensor]:
    """(N, W) mean-pooled outputs of the frozen tower and (N, Q, E) image embeddings."""
    assert model.retrieval_head is not None
    transform = EncoderTransform(model.backbone.vision.image_size)
    pooled, tokens = [], []
    for start in range(0, len(rows), batch):
        images = []
        for row in rows[start : start + batch]:
            with Image.open(out / "photos" / row["image"]) as image:
                images.append(transform(image))
        features = model.backbone.vision(torch.stack(images))
        pooled.append(features.mean(1))
        tokens.append(model.retrieval_head.image_embeddings(model.backbone, features))
    return torch.cat(pooled), torch.cat(tokens)


def proportion(name: str, hits: int, n: int, note: str = "") -> None:
    """Print a share with its 95 % interval (Wilson) and n."""
    interval = wilson_interval(hits, n)
    print(f"{name:<60} {100 * hits / n:5.1f} %  [{100 * interval.low:.1f}, {100 * interval.high:.1f}]  n = {n}  {note}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clothing", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("work"))
    args = parser.parse_args(argv)
    print(prepare(args.clothing, args.out))


if __name__ == "__main__":
    main()
