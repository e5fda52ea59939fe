"""The small profile on real photos: text -> image retrieval, naming the garment by a prompt, and a linear probe beside it.

    python benchmarks/real_photos.py prepare --clothing FOLDER --out work       # tar files + clothing.csv -> photos + items.csv
    unifashion fit --config small.yaml --data.csv work/items.csv --data.root work/photos …   (the whole line is printed)
    python benchmarks/real_photos.py measure --out work --ckpt runs/small/checkpoints/last.ckpt

FOLDER and the columns of ``items.csv`` are described in ``real_data.py``.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from real_data import embed, noun, photos, positives, prepare, proportion
from torch import Tensor

from unifashion_pl import UniFashionModule


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
    train, val = photos(out, test=False), photos(out, test=True)
    x, _ = embed(model, out, train)
    x_val, z = embed(model, out, val)
    report_naming(model, val, z)
    report_probe(train, val, x.clone(), x_val.clone())
    texts = sorted({r["text"] for r in val})
    with torch.inference_mode():
        scores = model.retrieval_head.score(model.retrieval_head.text_embeddings(model.backbone, texts), z)
    right = positives(texts, [r["text"] for r in val])
    best = scores.masked_fill(~right, -2).amax(1, keepdim=True)
    ranks = ((scores >= best) & ~right).sum(1)
    for k in (1, 5, 10):
        hits = int((ranks < k).sum())
        chance = float(
            np.mean([1 - np.prod([(len(val) - p - i) / (len(val) - i) for i in range(k)]) for p in right.sum(1).numpy()])
        )
        proportion(
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
    proportion(f"naming by one prompt per class, {len(labels)} classes", hits, len(val))


def report_probe(train: list[dict[str, str]], val: list[dict[str, str]], x: Tensor, x_val: Tensor) -> None:
    labels = sorted({r["category"] for r in val})
    kept = [i for i, r in enumerate(train) if r["category"] in labels]
    y = torch.tensor([labels.index(train[i]["category"]) for i in kept])
    guess = linear_probe(x[kept], y, x_val)
    hits = sum(labels[int(g)] == r["category"] for g, r in zip(guess, val))
    common = Counter(r["category"] for r in val).most_common(1)[0][1]
    proportion("linear probe on the same frozen features", hits, len(val), f"commonest class {100 * common / len(val):.1f} %")


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
