"""Search by a photo and words on real photos: "in red" beside a photo of a shirt, judged by derived colours and classes.

    python benchmarks/real_data.py --clothing FOLDER --out work
    python benchmarks/real_composed.py hold --work work                         # a quarter of the senders -> work/held.csv, split val
    unifashion fit --config small.yaml --data.csv work/held.csv --data.root work/photos …
    unifashion fit --config small-composed.yaml --data.csv work/held.csv --data.root work/photos …         (three seeds)
    python benchmarks/real_composed.py measure --work work --items held.csv --split val --before runs/small --ckpt RUN [RUN …]

Without ``--items`` and ``--split`` the references are the official validation photos, which nothing was chosen by. Every photo of the
split is asked for in every other colour of which the gallery has at least ``--least`` photos of its class. **Right** is a hit of that
class and that colour. Beside the composed query stand what the words find alone, the photo alone, and both scores added up. A colour is
the name that is nearest to the median colour of the middle 40 % of a photo, a class is what its sender called it: no human has judged a hit.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from real_data import COLUMNS, Row, photos
from torch import Tensor

from unifashion_pl import UniFashionModule
from unifashion_pl.data.features import Identity
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.weights.loading import find_weights

K = 10
#: Share of the senders whose photos are held out.
HELD = 0.25
WAYS = ("composed", "words alone", "photo alone", "both scores added")
#: The composed query's likeness to an image and to the caption that the model itself wrote of it (Table 5's "w/ cap", w = 1).
CAPTIONED = "composed, with captions"


class Photos:
    """Rows with the tower's tokens of their photos, each read once: ``known`` keeps them for the next model with the same tower."""

    def __init__(
        self, model: UniFashionModule, work: Path, rows: Sequence[Row], known: dict[tuple[str, str], Tensor] | None = None
    ) -> None:
        self.rows, known = list(rows), {} if known is None else known
        transform = EncoderTransform(model.backbone.vision.image_size)
        tower = Identity.of(model.backbone.vision, transform, "fp32").hash
        with torch.inference_mode():
            for some in chunks([row for row in self.rows if (tower, row["image"]) not in known], 64):
                pictures = [transform(Image.open(work / "photos" / row["image"]).convert("RGB")) for row in some]
                seen = model.backbone.vision(torch.stack(pictures))
                known |= {(tower, row["image"]): one for row, one in zip(some, seen)}
        self.tokens = torch.stack([known[tower, row["image"]] for row in self.rows])
        self.captions: list[str] = []
        self.colours, self.classes = (np.array([row[name] for row in self.rows]) for name in ("colour", "category"))


def hold_out(work: Path) -> Path:
    """``held.csv``: the training photos, those of a quarter of their senders as split ``val``; the official validation is left out."""
    target = work / "held.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in photos(work, test=False):
            share = int.from_bytes(hashlib.sha256(row["sender"].encode()).digest()[:8], "big") / 2**64
            writer.writerow({**row, "split": "val" if share < HELD else "train"})
    return target


def rows_of(path: Path, splits: Sequence[str]) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["split"] in splits]


def chunks(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def queries(shown: Photos, gallery: Photos, least: int) -> list[tuple[int, str]]:
    """(photo, colour) of every query."""
    there = Counter(zip(gallery.classes, gallery.colours))
    return [
        (i, colour)
        for i, row in enumerate(shown.rows)
        for (category, colour), count in sorted(there.items())
        if category == row["category"] and colour != row["colour"] and count >= least
    ]


@torch.inference_mode()
def scores(
    model: UniFashionModule, shown: Photos, gallery: Photos, asked: Sequence[tuple[int, str]], words: str
) -> dict[str, Tensor]:
    """(queries, gallery) of every way to ask."""
    head, backbone = model.retrieval_head, model.backbone
    assert head is not None
    shelves = {name: tokens_of(model, gallery, name) for name in ("reference", "target")}
    texts = [words.format(colour) for _, colour in asked]
    composed = torch.cat(
        [
            head.compose(backbone, shown.tokens[[i for i, _ in asked[s]]], texts[s])
            for s in map(slice_of, chunks(range(len(asked)), 256))
        ]
    )
    known = sorted(set(texts))
    alone = head.score(head.text_embeddings(backbone, known), shelves["reference"])[[known.index(text) for text in texts]]
    own = tokens_of(model, shown, "reference")
    like = torch.stack([head.score(one, shelves["reference"]).mean(0) for one in own])[[i for i, _ in asked]]
    found = dict(zip(WAYS, (head.score(composed, shelves["target"]), alone, like, alone + like)))
    if gallery.captions:
        different = sorted({*gallery.captions})
        likeness = composed @ head.text_embeddings(backbone, different).T
        found[CAPTIONED] = found[WAYS[0]] + likeness[:, [different.index(one) for one in gallery.captions]]
    return found


def slice_of(numbers: Sequence[int]) -> slice:
    return slice(numbers[0], numbers[-1] + 1)


def tokens_of(model: UniFashionModule, of: Photos, name: Any) -> Tensor:
    """(photos, Q, E) of a query set."""
    head = model.retrieval_head
    assert head is not None
    return torch.cat([head.image_embeddings(model.backbone, part, name) for part in of.tokens.split(256)])


def judged(
    found: Mapping[str, Tensor], shown: Photos, gallery: Photos, asked: Sequence[tuple[int, str]]
) -> dict[str, dict[str, np.ndarray]]:
    """Of every way and query: the share of the first K that is right, of the colour, of the class, and shared with the composed query."""
    wanted = np.array([colour for _, colour in asked])
    of = np.array([shown.rows[i]["category"] for i, _ in asked])
    tops = {way: table.topk(K, dim=1).indices.numpy() for way, table in found.items()}
    results = {}
    for way, top in tops.items():
        colour, category = gallery.colours[top] == wanted[:, None], gallery.classes[top] == of[:, None]
        shared = np.array([len({*a} & {*b}) / K for a, b in zip(top.tolist(), tops[WAYS[0]].tolist())])
        results[way] = {
            "right": (colour & category).mean(1),
            "colour": colour.mean(1),
            "class": category.mean(1),
            "shared": shared,
        }
    return results


@torch.inference_mode()
def by_text(model: UniFashionModule, gallery: Photos) -> dict[str, float]:
    """Text -> photo: precision at 10 of class prompts and of derived texts with 10 photos or more, recall of any photo of a derived text."""
    head, shelf = model.retrieval_head, tokens_of(model, gallery, "reference")
    assert head is not None
    results = {}
    for name, column in (("class", "title"), ("class and colour", "text")):
        texts = sorted({row[column] for row in gallery.rows})
        table = head.score(head.text_embeddings(model.backbone, texts), shelf)
        right = torch.tensor([[row[column] == text for row in gallery.rows] for text in texts])
        best = table.masked_fill(~right, -2).amax(1, keepdim=True)
        ranks = ((table >= best) & ~right).sum(1)
        many = right.sum(1) >= K
        first = right.gather(1, table.topk(K, dim=1).indices).float().mean(1)
        if many.any():
            results[f"{name}: precision at {K}, {int(many.sum())} texts"] = 100 * float(first[many].mean())
        results |= {f"{name}: R@{k}, {len(texts)} texts": 100 * float((ranks < k).float().mean()) for k in (1, 10)}
    return results


def spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over seeds."""
    return f"{mean(values):5.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def report(
    every: Sequence[dict[str, dict[str, np.ndarray]]], shown: Photos, gallery: Photos, asked: Sequence[tuple[int, str]]
) -> None:
    """The tables, over seeds."""
    there = Counter(zip(gallery.classes, gallery.colours))
    cells = [(shown.rows[i]["category"], colour) for i, colour in asked]
    chance = 100 * mean(there[cell] / len(gallery.rows) for cell in cells)
    inside = Counter(gallery.classes)
    within = 100 * mean(there[cell] / inside[cell[0]] for cell in cells)
    counts = f"{len(asked)} queries of {len({i for i, _ in asked})} photos, {len(set(cells))} pairs of class and colour"
    print(f"{counts}, {len(gallery.rows)} photos in the gallery, {len(every)} seeds")
    print(f"chance {chance:.1f} %, of a random photo of the class {within:.1f} %\n")
    print(f"{'of the first 10, %':<24}{'right':>10}{'of the colour':>16}{'of the class':>16}{'shared':>14}")
    for way in every[0]:
        columns = [
            spread([100 * float(one[way][name].mean()) for one in every]) for name in ("right", "colour", "class", "shared")
        ]
        print(f"{way:<24}" + "".join(f"{column:>15}" for column in columns))
    for title, of in (("class", 0), ("colour", 1)):
        print(f"\nright by {title}, %")
        for name in sorted({cell[of] for cell in cells}):
            rows = [i for i, cell in enumerate(cells) if cell[of] == name]
            print(
                f"  {name:<14}{spread([100 * float(one[WAYS[0]]['right'][rows].mean()) for one in every]):>14}  n = {len(rows)}"
            )


def picture(
    path: Path, work: Path, found: Tensor, shown: Photos, gallery: Photos, asked: Sequence[tuple[int, str]], rows: int = 10
) -> None:
    """Rows of a reference, the words and the first five hits; those that are right have a green frame."""
    side, rng = 110, np.random.default_rng(0)
    chosen = sorted(rng.choice(len(asked), min(rows, len(asked)), replace=False).tolist())
    sheet = Image.new("RGB", (side * 7, side * len(chosen)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, number in enumerate(chosen):
        i, colour = asked[number]
        own = shown.rows[i]
        sheet.paste(thumbnail(work, own, side, "black"), (0, y * side))
        draw.text((side + 8, y * side + side // 2), f"in {colour}", fill="black")
        for x, hit in enumerate(found[number].topk(5).indices.tolist()):
            row = gallery.rows[hit]
            right = row["category"] == own["category"] and row["colour"] == colour
            sheet.paste(thumbnail(work, row, side, "green" if right else "red"), ((x + 2) * side, y * side))
    sheet.save(path)


def thumbnail(work: Path, row: Row, side: int, frame: str) -> Image.Image:
    small = ImageOps.pad(Image.open(work / "photos" / row["image"]).convert("RGB"), (side - 12, side - 12), color="white")
    return ImageOps.expand(ImageOps.expand(small, 4, frame), 2, "white")


def load(source: str) -> UniFashionModule:
    """A model of a run, a checkpoint or a folder."""
    return UniFashionModule.from_pretrained(str(find_weights(source))).eval()


def measure(args: argparse.Namespace) -> None:
    """Print the tables of all models."""
    items = args.work / args.items
    asking, searched = (rows_of(items, splits) for splits in ([args.split], args.gallery or [args.split]))
    every, texts, known = [], [], dict[tuple[str, str], Tensor]()
    for source in args.ckpt:
        model = load(source)
        gallery = Photos(model, args.work, searched, known)
        shown = gallery if asking == searched else Photos(model, args.work, asking, known)
        if not (asked := queries(shown, gallery, args.least)):
            raise SystemExit(f"no colour has {args.least} photos of one class among {len(searched)}: lower --least")
        if args.captions:
            gallery.captions = model.caption([args.work / "photos" / row["image"] for row in searched], batch_size=32)
            print(f"{source}: {len({*gallery.captions})} different captions, e.g. {gallery.captions[:3]}")
        found = scores(model, shown, gallery, asked, args.words)
        every.append(judged(found, shown, gallery, asked))
        texts.append(by_text(model, gallery))
        if args.picture and len(every) == 1:
            picture(args.picture, args.work, found[WAYS[0]], shown, gallery, asked)
    report(every, shown, gallery, asked)
    before = by_text(load(args.before), gallery) if args.before else {}
    print("\ntext -> photo, %")
    for name in texts[0]:
        was = f"before {before[name]:5.1f}, after " if before else ""
        print(f"  {name:<48} {was}{spread([one[name] for one in texts])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    held, measured = actions.add_parser("hold"), actions.add_parser("measure")
    for sub in (held, measured):
        sub.add_argument("--work", type=Path, required=True, help="folder of `real_data.py`")
    measured.add_argument("--ckpt", nargs="+", required=True, help="trained with small-composed.yaml, one for each seed")
    measured.add_argument("--before", help="the model that they were started from, for search by text before and after")
    measured.add_argument("--items", default="items.csv", help="below the folder")
    measured.add_argument("--split", default="test", help="whose photos are references")
    measured.add_argument("--gallery", nargs="+", help="splits that are searched; default: that of the references")
    measured.add_argument("--least", type=int, default=K, help="photos of class and colour that the gallery has to have")
    measured.add_argument(
        "--captions", action="store_true", help="the models write the gallery's captions, and these count too"
    )
    measured.add_argument("--words", default="in {}")
    measured.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.action == "hold":
        print(hold_out(args.work))
    else:
        measure(args)


if __name__ == "__main__":
    main()
