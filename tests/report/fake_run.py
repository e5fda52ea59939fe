"""A synthetic run folder in the form that evaluation writes, made without any model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from unifashion_pl.metrics.lines import image_name, write_lines
from unifashion_pl.metrics.records import Interval, ResultRecord, write_records

COLOURS = {"red": (178, 58, 52), "navy": (38, 52, 92), "green": (62, 110, 74), "beige": (205, 186, 150), "black": (40, 40, 42)}
KINDS = ("dress", "shirt", "skirt")
CONFIG = """seed_everything: 0
trainer: {max_steps: 400, devices: 1, precision: 32-true}
model:
  policy: POLICY
  backbone: {class_path: unifashion_pl.backbone.QFormerBackbone, init_args: {tokenizer: tiny, num_queries: 8, hidden_size: 64,
    vision: {class_path: unifashion_pl.backbone.VisionTower, init_args: {name: resnet10t, image_size: 64}}}}
data: {class_path: unifashion_pl.datamodules.WardrobeDataModule}
"""


def garment(path: Path, colour: str, kind: str, size: tuple[int, int] = (96, 96)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (250, 249, 246))
    draw = ImageDraw.Draw(image)
    w, h = size
    shapes = {
        "dress": [(0.38, 0.1), (0.62, 0.1), (0.6, 0.45), (0.8, 0.92), (0.2, 0.92), (0.4, 0.45)],
        "shirt": [(0.2, 0.2), (0.8, 0.2), (0.95, 0.5), (0.72, 0.45), (0.72, 0.85), (0.28, 0.85), (0.28, 0.45), (0.05, 0.5)],
        "skirt": [(0.35, 0.25), (0.65, 0.25), (0.85, 0.85), (0.15, 0.85)],
    }
    draw.polygon([(x * w, y * h) for x, y in shapes[kind]], fill=COLOURS[colour])
    image.save(path, quality=88)


def curves(path: Path, terms: list[str], metrics: list[str], steps: int = 400) -> None:
    rng = np.random.default_rng(len(terms))
    names = ["train/loss", *terms, *metrics, "lr-AdamW", "test/ignored"]
    lines = [",".join(["epoch", "step", *names])]
    for step in range(0, steps, 2):
        decay = math.exp(-step / 130)
        values = [f"{0.4 + 2.2 * decay * (1 + 0.3 * i) + 0.12 * abs(rng.normal()):.4f}" for i in range(1 + len(terms))]
        lines.append(",".join(["0", str(step), *values, *[""] * len(metrics), f"{1e-4 * (1 - step / steps):.6f}", ""]))
        if step % 50 == 48:
            scores = [f"{90 * (1 - decay) * (i + 1) / len(metrics):.3f}" for i in range(len(metrics))]
            lines.append(",".join(["0", str(step), *[""] * (1 + len(terms)), *scores, "", ""]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def interval(value: float, half: float) -> Interval:
    return Interval(max(0.0, value - half), min(100.0, value + half), 0.95, "bootstrap")


def retrieval_records() -> list[ResultRecord]:
    records = []
    for protocol, n in (
        ("fashiongen_full(text=name_description)", 320),
        ("fashiongen_100(pool=subcategory,n=160,draws=5,seed=0)", 160),
    ):
        for i, metric in enumerate(("i2t/R@1", "i2t/R@5", "i2t/R@10", "t2i/R@1", "t2i/R@5", "t2i/R@10", "mean")):
            value = 38.0 + 9.5 * (i % 3) + (6 if "100" in protocol else 0)
            records.append(
                ResultRecord(metric, value, "percent", n, protocol, None, interval(value, 5), 0, code_version="0.1.0")
            )
            if metric != "mean":
                chance = 100 * int(metric.split("@")[1]) / (100 if "100" in protocol else n)
                records.append(ResultRecord(metric, chance, "percent", n, protocol + "/chance"))
    for metric, value in (("BLEU-4", 0.412), ("ROUGE-L", 0.655), ("CIDEr", 2.31)):
        records.append(
            ResultRecord(metric, value, "raw", 64, "coco(ptb-py)", 64, Interval(value * 0.9, value * 1.1, 0.95, "b"))
        )
    records.append(ResultRecord("METEOR", None, "raw", 64, "coco(ptb-py)", 64, implementation="needs Java"))
    records.append(
        ResultRecord("caption/colour_accuracy", 81.2, "percent", 64, "first-mention(words=12)", None, interval(81.2, 9))
    )
    records.append(ResultRecord("caption/colour_accuracy", 21.0, "percent", 64, "first-mention(words=12)/chance"))
    return records


def composed_records() -> list[ResultRecord]:
    records = []
    strengths = {"itc": 62, "text-only": 33, "text-blank": 36, "image-only": 22, "image-similarity": 17}
    for gallery in ("original", "union"):
        for variant, strength in strengths.items():
            protocol = f"fashioniq/{gallery}/ref-kept/image(score={variant},text=and)"
            for i, part in enumerate(("dress", "shirt", "toptee", "mean")):
                for k in (10, 50):
                    value = strength + 2.2 * i + (17 if k == 50 else 0) + (3 if gallery == "union" else 0)
                    records.append(
                        ResultRecord(
                            f"{part}/R@{k}", value, "percent", 180 if part == "mean" else 60, protocol, None, interval(value, 6)
                        )
                    )
            records.append(ResultRecord("Avg", strength + 12.0, "percent", 180, protocol, None, interval(strength + 12.0, 4)))
        base = f"fashioniq/{gallery}/ref-kept/image(score=itc,text=and)"
        records += [
            ResultRecord(f"{p}/R@{k}", k / 2.4, "percent", 60, base + "/chance")
            for p in ("dress", "shirt", "toptee", "mean")
            for k in (10, 50)
        ]
    return records


def make_run(root: Path) -> Path:
    """``root/phase1`` and ``root/phase2``, each with config, curves and a test folder."""
    colours, rng = list(COLOURS), np.random.default_rng(0)
    items = [(f"p{i:03d}", colours[i % 5], KINDS[i % 3]) for i in range(30)]
    recall = [f"val/fashiongen/{d}/R@{k}" for d in ("i2t", "t2i") for k in (1, 5, 10)]
    (root / "phase1").mkdir(parents=True)
    (root / "phase2").mkdir()
    (root / "phase1/config.yaml").write_text(CONFIG.replace("POLICY", "phase1_joint"))
    (root / "phase2/config.yaml").write_text(CONFIG.replace("POLICY", "phase2_joint"))
    curves(root / "phase1/version_0/metrics.csv", [f"train/pairs/{n}" for n in ("itc", "itm", "itg", "q2i")], recall)
    means = [f"val/fashioniq/mean/R@{k}" for k in (10, 50)]
    curves(root / "phase2/version_0/metrics.csv", [f"train/triplets/{n}" for n in ("cir_itc", "cir_caption", "cir_itm")], means)
    one, two = root / "phase1/version_0/test", root / "phase2/version_0/test"
    for folder in (one, two):
        for dataset in ("fashiongen/validation", "fashioniq/val"):
            for key, colour, kind in items:
                garment(folder / "images" / image_name(dataset, key), colour, kind)
    write_records(one / "results.json", retrieval_records())
    write_records(two / "results.json", composed_records())
    _predictions(one, two, items, rng)
    return root


def _predictions(one: Path, two: Path, items: list[tuple[str, str, str]], rng: np.random.Generator) -> None:
    keys = [key for key, _, _ in items]
    retrieval, composed, captions = [], [], []
    for i, (key, colour, kind) in enumerate(items[:5]):
        top = [[k, 0.9 - 0.03 * j] for j, k in enumerate(rng.permutation(keys)[:10])]
        text = f"Crew neck {kind} in {colour} cotton. Long sleeves, ribbed cuffs and hem. Tonal stitching."
        shared = {"dataset": "fashiongen/validation", "shown": True, "candidates": 30, "ties": 0}
        rank = next((j for j, (k, _) in enumerate(top) if k == key), 17)
        retrieval.append(
            {
                **shared,
                "direction": "t2i",
                "key": key,
                "text": text,
                "targets": [key],
                "target_shown": key,
                "rank": rank,
                "top": top,
            }
        )
        texts = {k: f"{c} {t} with pockets <b>&" for k, c, t in items}
        retrieval.append({**shared, "direction": "i2t", "key": key, "targets": [key], "rank": rank, "top": top, "texts": texts})
        composed.append(
            {
                "dataset": "fashioniq/val",
                "shown": True,
                "candidates": 30,
                "ties": 0,
                "key": f"q{i}",
                "category": kind,
                "reference": keys[i + 5],
                "target": key,
                "target_shown": key,
                "text": f"Is {colour} and has longer sleeves",
                "rank": rank,
                "top": top,
            }
        )
        captions.append(
            {
                "dataset": "fashiongen/validation",
                "id": key,
                "style": "fashiongen",
                "shown": True,
                "reference": text,
                "hypothesis": f"Long sleeve {kind} in {'black' if i == 2 else colour}. Ribbed cuffs.",
                "words": {"colour": ["black" if i == 2 else colour, colour], "category": [kind, kind]},
            }
        )
    write_lines(one / "predictions/retrieval.jsonl", retrieval)
    write_lines(one / "predictions/captions.jsonl", captions)
    write_lines(two / "predictions/composed.jsonl", composed)
    images = []
    for i, (key, colour, kind) in enumerate(items[:3]):
        for j in range(3):
            garment(two / f"images/gen-{i}-{j}.png", colour, kind, (96, 128))
        images.append(
            {
                "dataset": "fashioniq/val",
                "id": key,
                "kind": ("reconstruction", "composed")[i % 2],
                "prompt": f"a {colour} {kind}",
                "shown": True,
                "seeds": [0, 1],
                "files": [f"gen-{i}-0.png", f"gen-{i}-1.png"],
                "truth": f"gen-{i}-2.png",
                "reference": None,
                "sampler": "fast",
                "steps": 20,
                "guidance": 7.5,
            }
        )
    write_lines(two / "predictions/images.jsonl", images)


def read_json(path: Path) -> object:
    return json.loads(path.read_text())
