"""Real photos in one command: prepare, fit by ``unifashion adapt``, figures with intervals and seeds, pictures.

    python benchmarks/real_photos.py --clothing FOLDER --out work --tower efficientnet-lite0.pth --bert minilm [--seeds 3]

FOLDER and the columns of ``items.csv`` are described in ``real_data.py``. Every seed is a run of ``unifashion adapt`` in
``work/runs``, which goes on where it was stopped, and whose length the photos of some senders decide (``fit.csv`` of
``real_identity.py``); what is measured is measured on the test (the official validation photos, which no fit sees and no choice was made on).

**The reference** is multinomial logistic regression on the same frozen features at the same resolution (mean-pooled, standardised, L-BFGS), of
all photos that are not of the test, those that the fit holds out for stopping included, and of the test's classes alone. Weight decay 1e-3 is
the reference, the best of :data:`DECAYS` on the test itself is printed beside it: a bound that no honest choice can reach.

**Seeds are combined** by photo: a photo's hit is its mean over the seeds, the difference to the probe is averaged over photos, and photos are
drawn with replacement (cluster bootstrap of all predictions, clustered by photo; p is twice the share of the draws on the other side of 0, at
least 2 / draws). Exact McNemar stands beside it for every seed. Differences between seeds are in the table as their standard deviation.

**Naming** takes the class whose prompt has the highest score, and with the prior log p(class) of the rows that the fit learned beside score / temperature:
the probe has learned how often a class occurs, a contrastive score leaves it out (``unifashion_pl.evaluation.naming``). The probe is compared with the latter.

``--folds N`` asks the same of all photos that are not of the test, which are ten times as many: the senders are divided into N parts, each is named by a
fit of its own (seed = number of the part) that saw no photo of its senders, and by a probe of the other parts' photos. Senders are drawn with replacement.
"""

from __future__ import annotations

import argparse
import csv
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import real_identity
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from real_data import Row, embed, photos, positives, prepare, proportion
from torch import Tensor
from unifashion_pl.datamodules import CatalogueDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.adapt import MODEL, Choices, adapt
from unifashion_pl.evaluation.naming import log_prior
from unifashion_pl.metrics.categories import linear_probe, precision_at
from unifashion_pl.metrics.intervals import bootstrap_interval, compare_paired, resampled_means, seed_summary

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
REFERENCE = 1e-3
DRAWS = 10_000
#: How a category is asked for; several vote by the mean of their scores.
PROMPTS = ("a photo of a {}",)
#: Colour and category of the searches by text that are shown.
SHOWN = (
    ("white", "shirt"),
    ("blue", "pair of pants"),
    ("black", "dress"),
    ("", "hat"),
    ("", "pair of shoes"),
    ("pink", "t-shirt"),
    ("grey", "skirt"),
)
Hits = NDArray[np.bool_]


@dataclass(frozen=True)
class Seed:
    """What one fit reaches on the test: hits of naming by photo, alone and with the prior, precision at 10 of each query, and ranks of the derived texts."""

    alone: Hits
    named: Hits
    text_to_image: NDArray[np.float64]
    image_to_image: NDArray[np.float64]
    ranks: NDArray[np.int64]


def fit(out: Path, seed: int, tower: Path | None, bert: Path | None, configs: Sequence[str]) -> Path:
    """The model of one seed. All seeds read the shards and features of the first."""
    run = out / "runs" / f"seed{seed}"
    if seed:
        run.mkdir(parents=True, exist_ok=True)
        if not (run / "shards").exists():
            (run / "shards").symlink_to((out / "runs" / "seed0" / "shards").resolve(), target_is_directory=True)
    chosen = Choices(tower=tower, bert=bert, seed=seed, configs=tuple(configs))
    print(adapt(out / "fit.csv", out / "photos", run, chosen))
    return run / MODEL


def crossed(out: Path, folds: int, tower: Path | None, bert: Path | None, configs: Sequence[str]) -> dict[str, list[float]]:
    """Naming of photos whose senders neither fit nor probe saw, beside two probes: print it, and give the numbers as plain values."""
    rows, names = photos(out, test=False), sorted({row["category"] for row in photos(out, test=True)})
    fold = {row["id"]: zlib.crc32(row["sender"].encode()) % folds for row in rows}
    pooled: dict[str, Tensor] = {}
    named: dict[str, str] = {}
    alone: dict[str, str] = {}
    learned: list[set[str]] = []
    for number in range(folds):
        table, run = out / f"fold{number}.csv", out / "runs" / f"fold{number}"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({**row, "split": "test" if fold[row["id"]] == number else ""} for row in rows)
        chosen = Choices(group="sender", tower=tower, bert=bert, seed=number, configs=tuple(configs))
        print(adapt(table, out / "photos", run, chosen))
        taught_rows = CatalogueDataModule(table, out / "photos", group="sender").rows("train").values()
        learned.append({row.id for row in taught_rows})
        model = UniFashionModule.from_pretrained(run / MODEL).eval()
        own = [row for row in rows if fold[row["id"]] == number]
        features, tokens = embed(model, out, own)
        scores = scored(model, [PROMPTS[0].format(name) for name in names], tokens)
        known_often = weighed(model, scores, names, [row.category for row in taught_rows])
        pooled |= {row["id"]: one for row, one in zip(own, features)}
        for guesses_by, values in ((alone, scores), (named, known_often)):
            guesses_by |= {row["id"]: names[int(i)] for row, i in zip(own, values.argmax(0))}
    judged = [row for row in rows if row["category"] in names]
    others = [{row["id"] for row in judged if fold[row["id"]] != number} for number in range(folds)]
    bare, ours = (np.array([guess[row["id"]] == row["category"] for row in judged]) for guess in (alone, named))
    senders = [row["sender"] for row in judged]
    whose = f"{len(judged):,} photos of {len({*senders})} senders in {folds} folds"
    print(f"{whose}: naming {100 * ours.mean():.1f} %, without the prior {100 * bare.mean():.1f} %")
    figures: dict[str, list[float]] = {"naming": [float(ours.mean())], "without the prior": [float(bare.mean())]}
    for said, known in (("the photos that the fit learns from", learned), ("all photos of other senders", others)):
        guesses: dict[str, str] = {}
        for number in range(folds):
            taught = [row for row in judged if row["id"] in known[number]]
            asked = [row["id"] for row in judged if fold[row["id"]] == number]
            seen, wanted = (torch.stack([pooled[id] for id in ids]) for ids in ([row["id"] for row in taught], asked))
            guesses |= dict(zip(asked, linear_probe(seen, [row["category"] for row in taught], wanted, REFERENCE)))
        probe = np.array([guesses[row["id"]] == row["category"] for row in judged])
        found = compare_paired(ours, probe, clusters=senders)
        low, high = found.interval.low, found.interval.high
        print(
            f"probe of {said}: {100 * probe.mean():.1f} %; naming - probe {100 * found.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}], "
            f"only by prompt {found.only_a}, only by the probe {found.only_b}, McNemar p = {found.p_value:.2g}"
        )
        figures[f"probe of {said}"] = [float(probe.mean()), found.difference, low, high, found.p_value]
    return figures


def probes(features: Tensor, rows: Sequence[Row], asked: Tensor, test: Sequence[Row]) -> dict[float, Hits]:
    """Weight decay -> hits of the linear probe on the test."""
    known = {row["category"] for row in test}
    kept = [i for i, row in enumerate(rows) if row["category"] in known]
    labels, truth = [rows[i]["category"] for i in kept], np.array([row["category"] for row in test])
    return {decay: np.array(linear_probe(features[kept], labels, asked, decay)) == truth for decay in DECAYS}


@torch.inference_mode()
def scored(model: UniFashionModule, texts: Sequence[str], tokens: Tensor) -> Tensor:
    """(texts, images)."""
    assert model.retrieval_head is not None
    return model.retrieval_head.score(model.retrieval_head.text_embeddings(model.backbone, list(texts)), tokens)


def weighed(model: UniFashionModule, scores: Tensor, names: Sequence[str], learned: Sequence[str]) -> Tensor:
    """Scores (classes, images) with the prior of the classes among the rows that were learned."""
    assert model.retrieval_head is not None
    return scores + float(model.retrieval_head.clamped_temperature) * log_prior(names, Counter(learned))[:, None]


def measure(model: UniFashionModule, test: Sequence[Row], tokens: Tensor, learned: Sequence[str]) -> Seed:
    """All figures of one model, which learned rows of these classes."""
    own = [row["category"] for row in test]
    names = sorted(set(own))
    scores = torch.stack([scored(model, [prompt.format(name) for name in names], tokens) for prompt in PROMPTS]).mean(0)
    both = (scores, weighed(model, scores, names, learned))
    alone, named = (np.array([names[int(one)] for one in values.argmax(0)]) == np.array(own) for values in both)
    texts = sorted({row["text"] for row in test})
    asked, right = scored(model, texts, tokens), positives(texts, [row["text"] for row in test])
    best = asked.masked_fill(~right, -2).amax(1, keepdim=True)
    ranks = ((asked >= best) & ~right).sum(1).numpy()
    alike = torch.einsum("nqe,mpe->nqmp", tokens, tokens).amax(3).mean(1)
    found = precision_at(alike, positives(own, own), 10, itself=True)
    return Seed(alone, named, precision_at(scores, positives(names, own), 10), found, ranks)


def beyond(ours: Sequence[Hits], reference: Hits) -> tuple[float, float, float, float]:
    """Mean difference, its 95 % interval and p of hits of several seeds against one reference, photos drawn with replacement."""
    difference = np.mean(ours, axis=0) - reference
    draws = resampled_means(difference, None, DRAWS)[:, 0]
    other = min((draws <= 0).mean(), (draws >= 0).mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high), float(min(1, 2 * max(other, 1 / DRAWS)))


def told(seeds: Sequence[Seed], reference: dict[float, Hits], n: int) -> dict[str, object]:
    """Print the table; its numbers as plain values."""
    for decay, hits in reference.items():
        proportion(f"linear probe, weight decay {decay:g}", int(hits.sum()), n, "the reference" if decay == REFERENCE else "")
    for number, seed in enumerate(seeds):
        paired = compare_paired(seed.named, reference[REFERENCE])
        note = f"{100 * paired.difference:+.1f} beyond the probe, McNemar p = {paired.p_value:.3g}"
        proportion(f"naming by a prompt, seed {number}", int(seed.alone.sum()), n)
        proportion(f"… and the prior, seed {number}", int(seed.named.sum()), n, note)
    figures: dict[str, object] = {"n": n, "seeds": len(seeds)}
    columns = {"naming": [float(seed.named.mean()) for seed in seeds]}
    columns |= {"naming without the prior": [float(seed.alone.mean()) for seed in seeds]}
    columns |= {"text -> image P@10": [float(seed.text_to_image.mean()) for seed in seeds]}
    columns |= {"image -> image P@10": [float(seed.image_to_image.mean()) for seed in seeds]}
    columns |= {f"text -> image R@{k}": [float((seed.ranks < k).mean()) for seed in seeds] for k in (1, 5, 10)}
    for name, values in columns.items():
        spread = f"± {seed_summary(values).sd:.3f} over {len(values)} seeds" if len(values) > 1 else "one seed"
        print(f"{name:<60} {np.mean(values):5.3f} {spread}")
    pure = bootstrap_interval(np.mean([seed.image_to_image for seed in seeds], axis=0))
    print(f"{'image -> image P@10 over photos':<60} [{pure.low:.3f}, {pure.high:.3f}]")
    best = max(reference, key=lambda decay: reference[decay].sum())
    for decay in dict.fromkeys((REFERENCE, best)):
        mean, low, high, p = beyond([seed.named for seed in seeds], reference[decay])
        print(
            f"naming - probe (weight decay {decay:g}): {100 * mean:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}], p = {p:.4f}"
        )
        figures[f"beyond probe {decay:g}"] = [mean, low, high, p]
    return figures | dict(columns)


def pictures(out: Path, model: UniFashionModule, test: Sequence[Row], tokens: Tensor) -> list[Path]:
    """``texts.png`` and ``photos.png``: a row a query, its best eight photos; green frames have what was asked for."""
    asked = [" ".join(filter(None, pair)) for pair in SHOWN]
    rows: list[tuple[str | int, list[int], list[bool]]] = []
    for (colour, category), text, scores in zip(SHOWN, asked, scored(model, [f"a photo of a {one}" for one in asked], tokens)):
        top = scores.topk(8).indices.tolist()
        rows.append((text, top, [test[i]["category"] == category and colour in ("", test[i]["colour"]) for i in top]))
    alike = torch.einsum("nqe,mpe->nqmp", tokens, tokens).amax(3).mean(1)
    like: list[tuple[str | int, list[int], list[bool]]] = []
    for query in range(0, len(test), max(1, len(test) // 7)):
        top = [i for i in alike[query].topk(9).indices.tolist() if i != query][:8]
        like.append((query, top, [test[i]["category"] == test[query]["category"] for i in top]))
    return [_sheet(out, name, test, made) for name, made in (("texts", rows), ("photos", like))]


def _sheet(out: Path, name: str, test: Sequence[Row], rows: Sequence[tuple[str | int, list[int], list[bool]]]) -> Path:
    side, edge = 128, 4
    sheet = Image.new("RGB", (side * 9 + 20, side * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (query, top, right) in enumerate(rows):
        if isinstance(query, str):
            draw.multiline_text((4, y * side + 30), query.replace(" ", "\n", 1), fill="black")
        else:
            sheet.paste(_tile(out, test[query], side), (0, y * side))
        for x, (i, good) in enumerate(zip(top, right), 1):
            left = x * side + 20
            draw.rectangle((left, y * side, left + side - 1, (y + 1) * side - 1), "green" if good else "firebrick")
            sheet.paste(_tile(out, test[i], side - 2 * edge), (left + edge, y * side + edge))
    path = out / f"{name}.png"
    sheet.save(path)
    return path


def _tile(out: Path, row: Row, side: int) -> Image.Image:
    with Image.open(out / "photos" / row["image"]) as image:
        return image.convert("RGB").resize((side, side))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clothing", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("work"))
    parser.add_argument("--tower", type=Path, help="weights of EfficientNet-Lite0")
    parser.add_argument("--bert", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=0, help="name all other photos, too, in so many parts by sender")
    parser.add_argument("--config", action="append", default=[], help="laid over small.yaml")
    args = parser.parse_args(argv)
    prepare(args.clothing, args.out)
    real_identity.split(args.out)
    rest, test = photos(args.out, test=False), photos(args.out, test=True)
    with (args.out / "fit.csv").open(encoding="utf-8") as file:
        learned = [row["category"] for row in csv.DictReader(file) if row["split"] == "train"]
    seeds, reference, shown = [], {}, []
    for number in range(args.seeds):
        ckpt = fit(args.out, number, args.tower, args.bert, args.config)
        model = UniFashionModule.from_pretrained(ckpt).eval()
        pooled, tokens = embed(model, args.out, test)
        if not reference:  # the tower is frozen: one probe for all seeds
            reference = probes(embed(model, args.out, rest)[0], rest, pooled, test)
            shown = pictures(args.out, model, test, tokens)
        seeds.append(measure(model, test, tokens, learned))
        real_identity.measure(args.out, str(ckpt), False, args.out / f"identity{number}.png")
    figures = told(seeds, reference, len(test))
    if args.folds:
        figures["crossed"] = crossed(args.out, args.folds, args.tower, args.bert, args.config)
    (args.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(*shown, args.out / "figures.json", sep="\n")
    print("composed searches and captions have fits and commands of their own: real_composed.py, real_captions.py")


if __name__ == "__main__":
    main()
