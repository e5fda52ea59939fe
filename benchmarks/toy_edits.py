"""Do repainted persons wear what they should? Colour, pattern and sleeves, read by a small network that learned from drawings.

    unifashion test --config tryon.yaml --ckpt_path runs/tryon/checkpoints/last.ckpt --model.evaluator.max_edits null
    python benchmarks/toy_edits.py runs/tryon/test [--wardrobe FOLDER] [--picture sheet.png]

The network sees training persons as drawn and through the autoencoder, whose blur is not the painter's fault. What it reads off held-out
drawings stands first in the table: nothing painted can be expected to be above it. A second table gives the share right for each pattern.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn
from tqdm import tqdm
from unifashion_pl.datamodules.wardrobe import WardrobeDataModule

from unifashion_pl.data.transforms import PixelTransform, to_tensor
from unifashion_pl.evaluation.persons import VARIANTS
from unifashion_pl.generation import ImageVAE
from unifashion_pl.metrics.intervals import wilson_interval
from unifashion_pl.metrics.lines import read_lines

SIZE = (112, 80)
READ = ("colour", "pattern", "sleeve")
MADE = [variant.name for variant in VARIANTS]
COLUMNS = ("person", "garment", *MADE[:2], "sketch", *MADE[2:], "truth")


class Reader(nn.Module):
    """Picture (B, 3, H, W) in -1..1 -> logits per attribute."""

    def __init__(self, classes: dict[str, list[str]]) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        self.body = nn.Sequential(
            *(
                layer
                for a, b in pairwise(widths)
                for layer in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            )
        )
        self.heads = nn.ModuleDict({name: nn.Linear(widths[-1], len(values)) for name, values in classes.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        found = self.body(pictures).amax((2, 3))
        return {name: head(found) for name, head in self.heads.items()}


def load(folder: Path, names: list[str]) -> Tensor:
    """Persons (N, 3, H, W) uint8, framed as the painter sees them."""
    fit = PixelTransform(SIZE)
    return torch.stack(
        [fit(to_tensor(Image.open(folder / f"image/{name}.jpg").convert("RGB"))) for name in tqdm(names, desc=folder.name)]
    )


def scaled(pictures: Tensor) -> Tensor:
    return pictures.float() / 127.5 - 1


def through(vae: ImageVAE, pictures: Tensor) -> Tensor:
    """Encoded and decoded."""
    return torch.cat([vae.decode(vae.encode(part)) for part in tqdm(pictures.split(32), desc="autoencoder")])


def train(pictures: Tensor, truth: dict[str, Tensor], classes: dict[str, list[str]], epochs: int) -> Reader:
    torch.manual_seed(0)
    reader = Reader(classes).train()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=0.01)
    batch = min(64, len(pictures))
    steps = epochs * (len(pictures) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in tqdm(range(epochs), desc="reader"):
        for rows in torch.randperm(len(pictures)).split(batch):
            if len(rows) < batch:
                continue
            shown = scaled(pictures[rows])
            shown = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, shown.flip(-1), shown) + 0.05 * torch.randn_like(shown)
            logits = reader(shown)
            loss = torch.stack([F.cross_entropy(logits[name], truth[name][rows]) for name in READ]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return reader.eval()


@torch.no_grad()
def read(reader: Reader, pictures: Tensor, classes: dict[str, list[str]]) -> dict[str, list[str]]:
    logits = reader(scaled(pictures))
    return {name: [classes[name][i] for i in logits[name].argmax(1).tolist()] for name in READ}


def cell(said: list[str], true: list[str]) -> str:
    hits = sum(a == b for a, b in zip(said, true))
    interval = wilson_interval(hits, len(true)).scaled(100)
    return f"{100 * hits / len(true):.1f} ({interval.low:.1f}–{interval.high:.1f})"


def by_pattern(said: list[str], true: list[str]) -> dict[str, str]:
    """Pattern -> right / all."""
    totals = Counter(true)
    hits = Counter(b for a, b in zip(said, true) if a == b)
    return {pattern: f"{hits[pattern]} / {totals[pattern]}" for pattern in totals}


def rows_of(test: Path, truth: dict[str, Any]) -> dict[str, tuple[list[Tensor], list[dict[str, str]]]]:
    """Variant -> pictures and what is true of their garments; unpaired try-on by itself."""
    found: dict[str, tuple[list[Tensor], list[dict[str, str]]]] = {}
    for line in read_lines(test / "predictions/edits.jsonl"):
        person, _, garment = line["id"].partition("__")
        for name, made in line["made"].items():
            pictures, attributes = found.setdefault(name if line["paired"] else f"{name}, another's garment", ([], []))
            pictures.append(to_tensor(Image.open(test / "images" / made["file"]).convert("RGB")))
            attributes.append(truth[garment or person])
    if not found:
        raise SystemExit(f"{test} holds no edits: run `unifashion test --config tryon.yaml --ckpt_path …` first")
    return found


def sheet(test: Path, path: Path, shown: int, scale: int = 2) -> None:
    """The first persons of the test whose truth is known, not chosen: a row each, a column per picture."""
    lines = [line for line in read_lines(test / "predictions/edits.jsonl") if line["paired"]][:shown]
    there = {*lines[0]["given"], *lines[0]["made"]}
    columns = [name for name in COLUMNS if name in there]
    h, w, head = SIZE[0] * scale, SIZE[1] * scale, 34
    out = Image.new("RGB", (w * len(columns), head + h * len(lines)), "white")
    draw = ImageDraw.Draw(out)
    for x, name in enumerate(columns):
        draw.multiline_text(
            (x * w + w // 2, head // 2), name.replace("/", "\n"), "black", anchor="mm", align="center", font_size=13
        )
        for y, line in enumerate(lines):
            file = line["given"].get(name) or line["made"][name]["file"]
            picture = Image.open(test / "images" / file).convert("RGB").resize((w, h), Image.Resampling.BICUBIC)
            out.paste(picture, (x * w, head + y * h))
    out.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", type=Path, help="test folder of the run")
    parser.add_argument("--wardrobe", type=Path, help="folder with raw/; default: the cached one of tryon.yaml")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--picture", type=Path, help="write a sheet of the first --shown persons there")
    parser.add_argument("--shown", type=int, default=5)
    args = parser.parse_args()
    if args.picture:
        sheet(args.test, args.picture, args.shown)
    raw = (args.wardrobe or WardrobeDataModule(size="tryon", pairs=False, tryon=True).folder) / "raw"
    truth = json.loads((raw / "wardrobe.json").read_text("utf-8"))["truth"]["viton-hd"]
    painted = rows_of(args.test, truth)
    split = {part: sorted(p.stem for p in (raw / f"viton-hd/{part}/image").iterdir()) for part in ("train", "test")}
    classes = {name: sorted({truth[n][name] for n in split["train"]}) for name in READ}
    drawn = {part: load(raw / f"viton-hd/{part}", names) for part, names in split.items()}
    vae = ImageVAE("tiny")
    blurred = {part: through(vae, pictures) for part, pictures in drawn.items()}
    labels = {name: torch.tensor([classes[name].index(truth[n][name]) for n in split["train"]]).repeat(2) for name in READ}
    reader = train(torch.cat([drawn["train"], blurred["train"]]), labels, classes, args.epochs)
    held = [truth[n] for n in split["test"]]
    rows = {
        "held-out drawings": (list(drawn["test"]), held),
        "… through the autoencoder": (list(blurred["test"]), held),
        **painted,
    }
    patterns: dict[str, dict[str, str]] = {}
    print(f"| painted from | {' | '.join(f'{name} right, %' for name in READ)} | n |\n|---|---|---|---|---|")
    for title, (pictures, attributes) in rows.items():
        said = read(reader, torch.stack(pictures), classes)
        cells = [cell(said[name], [a[name] for a in attributes]) for name in READ]
        patterns[title] = by_pattern(said["pattern"], [a["pattern"] for a in attributes])
        print(f"| {title} | {' | '.join(cells)} | {len(attributes)} |")
    chance = [f"{100 * Counter(a[name] for a in held).most_common(1)[0][1] / len(held):.1f}" for name in READ]
    print(f"| always the commonest | {' | '.join(chance)} | {len(held)} |")
    columns = [pattern for pattern, _ in Counter(a["pattern"] for a in held).most_common()]
    print(f"\n| pattern right / all | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for title, found in patterns.items():
        print(f"| {title} | {' | '.join(found.get(pattern, '0 / 0') for pattern in columns)} |")


if __name__ == "__main__":
    main()
