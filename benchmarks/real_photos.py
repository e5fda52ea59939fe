"""The small profile on real photos: text -> image retrieval, naming the garment by a prompt, and a linear probe beside it.

    python benchmarks/real_photos.py prepare --clothing FOLDER --out work       # tar files + clothing.csv -> photos + items.csv
    unifashion fit --config small.yaml --data.csv work/items.csv --data.root work/photos …   (the whole line is printed)
    python benchmarks/real_photos.py measure --out work --ckpt runs/small/checkpoints/last.ckpt

FOLDER holds the CC0 clothing photos as ``clothing-*.tar`` and ``clothing.csv`` (image, label, split, label_small). Texts are derived
from the label and a measured colour and are called derived.
"""

from __future__ import annotations

import argparse
import csv
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unifashion_pl import UniFashionModule
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.metrics.intervals import wilson_interval

# Basic colour terms as sRGB; the nearest in Lab names the colour.
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


def lab(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) sRGB 0..255 -> CIE Lab (D65)."""
    c = rgb / 255.0
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    m = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = c @ m.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def measured_colour(image: Image.Image) -> str:
    """Name of the median colour of the middle 40 % of a photo, where the garment lies."""
    w, h = image.size
    middle = np.asarray(image.convert("RGB").crop((int(w * 0.3), int(h * 0.3), int(w * 0.7), int(h * 0.7))), float)
    median = np.median(lab(middle).reshape(-1, 3), axis=0)
    names = list(COLOURS)
    return names[int(np.argmin(np.linalg.norm(lab(np.array([COLOURS[n] for n in names], float)) - median, axis=1)))]


def noun(label: str) -> str:
    return WORDS.get(label, label)


def prepare(clothing: Path, out: Path) -> None:
    """Unpack the photos of train and validation and write ``items.csv``: image, title, text, id, category, split."""
    (out / "photos").mkdir(parents=True, exist_ok=True)
    rows = [
        r for r in csv.DictReader((clothing / "clothing.csv").open(encoding="utf-8")) if r["split"] in ("train", "validation")
    ]
    wanted = {r["image"]: r for r in rows}
    colours: dict[str, str] = {}
    for tar in sorted(clothing.glob("clothing-*.tar")):
        with tarfile.open(tar) as archive:
            for member in archive:
                if member.name in wanted:
                    file = archive.extractfile(member)
                    assert file is not None
                    path = out / "photos" / member.name
                    path.write_bytes(file.read())
                    colours[member.name] = measured_colour(Image.open(path))
    with (out / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "title", "text", "id", "category", "split"])
        for row in rows:
            label = (row["label_small"] or row["label"]).lower()
            title = f"a photo of a {noun(label)}"
            text = f"a photo of a {colours[row['image']]} {noun(label)}"
            writer.writerow([row["image"], title, text, Path(row["image"]).stem, label, row["split"]])
    print(f"{len(rows)} photos, texts derived from label and measured colour -> {out / 'items.csv'}")


def read(out: Path, split: str) -> list[dict[str, str]]:
    return [r for r in csv.DictReader((out / "items.csv").open(encoding="utf-8")) if r["split"] == split]


@torch.inference_mode()
def embed(model: UniFashionModule, out: Path, rows: list[dict[str, str]]) -> tuple[Tensor, Tensor]:
    """(N, W) mean-pooled frozen tower features and (N, Q, E) image embeddings."""
    transform = EncoderTransform(model.backbone.vision.image_size)
    pooled, tokens = [], []
    for start in range(0, len(rows), 64):
        batch = torch.stack([transform(Image.open(out / "photos" / r["image"])) for r in rows[start : start + 64]])
        pooled.append(model.backbone.vision(batch).mean(1))
        assert model.retrieval_head is not None
        tokens.append(model.retrieval_head.image_embeddings(model.backbone, batch))
    return torch.cat(pooled), torch.cat(tokens)


def linear_probe(x: Tensor, y: Tensor, x_val: Tensor, steps: int = 300) -> Tensor:
    """Predictions of multinomial logistic regression on standardised features (L-BFGS, weight decay 1e-3)."""
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, x_val = (x - mean) / std, (x_val - mean) / std
    layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(x), y) + 1e-3 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer(x_val).argmax(1)


def measure(out: Path, ckpt: str) -> None:
    """Print every figure with n and a 95 % interval."""
    model = UniFashionModule.from_pretrained(ckpt)
    assert model.retrieval_head is not None
    train, val = read(out, "train"), read(out, "validation")
    x, _ = embed(model, out, train)
    x_val, z = embed(model, out, val)
    report_naming(model, val, z)
    report_probe(train, val, x.clone(), x_val.clone())
    texts = sorted({r["text"] for r in val})
    with torch.inference_mode():
        scores = model.retrieval_head.score(model.retrieval_head.text_embeddings(model.backbone, texts), z)
    positives = torch.tensor([[r["text"] == t for r in val] for t in texts])
    best = scores.masked_fill(~positives, -2).amax(1, keepdim=True)
    ranks = ((scores >= best) & ~positives).sum(1)
    for k in (1, 5, 10):
        hits = int((ranks < k).sum())
        chance = float(
            np.mean([1 - np.prod([(len(val) - p - i) / (len(val) - i) for i in range(k)]) for p in positives.sum(1).numpy()])
        )
        line(
            f"text -> image R@{k}, any photo with that derived text",
            hits,
            len(texts),
            f"gallery {len(val)}, chance {100 * chance:.1f} %",
        )


def report_naming(model: UniFashionModule, val: list[dict[str, str]], z: Tensor) -> None:
    assert model.retrieval_head is not None
    labels = sorted({r["category"] for r in val})
    with torch.inference_mode():
        prompts = model.retrieval_head.text_embeddings(model.backbone, [f"a photo of a {noun(label)}" for label in labels])
        guess = model.retrieval_head.score(prompts, z).argmax(0)
    hits = sum(labels[int(g)] == r["category"] for g, r in zip(guess, val))
    line(f"naming by one prompt per class, {len(labels)} classes", hits, len(val))


def report_probe(train: list[dict[str, str]], val: list[dict[str, str]], x: Tensor, x_val: Tensor) -> None:
    labels = sorted({r["category"] for r in val})
    kept = [i for i, r in enumerate(train) if r["category"] in labels]
    y = torch.tensor([labels.index(train[i]["category"]) for i in kept])
    guess = linear_probe(x[kept], y, x_val)
    hits = sum(labels[int(g)] == r["category"] for g, r in zip(guess, val))
    common = Counter(r["category"] for r in val).most_common(1)[0][1]
    line("linear probe on the same frozen features", hits, len(val), f"commonest class {100 * common / len(val):.1f} %")


def line(name: str, hits: int, n: int, note: str = "") -> None:
    interval = wilson_interval(hits, n)
    low, high = interval.low, interval.high
    print(f"{name:<60} {100 * hits / n:5.1f} %  [{100 * low:.1f}, {100 * high:.1f}]  n = {n}  {note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    first, last = actions.add_parser("prepare"), actions.add_parser("measure")
    first.add_argument("--clothing", type=Path, required=True)
    last.add_argument("--ckpt", required=True)
    for sub in (first, last):
        sub.add_argument("--out", type=Path, default=Path("work"))
    args = parser.parse_args()
    if args.action == "prepare":
        prepare(args.clothing, args.out)
    else:
        measure(args.out, args.ckpt)


if __name__ == "__main__":
    main()
