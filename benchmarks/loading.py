"""What the loading path costs per core beside the decoding of the same JPEG files, which no loader can avoid.

    python benchmarks/loading.py                     # 768 x 1024 and 512 x 384 (height x width) pictures, 48 each
    python benchmarks/loading.py --images 96 --rounds 9

Pictures of the wardrobe become shards of a catalogue in a temporary folder. Measured is processor time of one process, and the variants take
turns, so that other work on the machine hits all alike; printed are only ratios of medians:

* ``decode``  Pillow decodes the bytes, nothing else: the unit;
* ``seen``    ``TrainLoader``: seek, CRC-32, tar, decode, the vision tower's 224 pixels, batch;
* ``painted`` the same with the diffusion head's 512 x 384 pixels beside it, from one decoding;
* ``peer``    a usual pipeline on the same shards: webdataset, Pillow's bicubic resizing, crop, normalisation in float32 on the CPU.

Pixels of ``seen`` and ``peer`` are compared: their largest difference on the scale 0..255.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from PIL import Image, ImageOps
from torch import Tensor
from unifashion_pl.datamodules.checks import build_shards

from unifashion_pl.backbone.vision import CLIP_MEAN, CLIP_STD
from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.reader import ShardSource
from unifashion_pl.data.stream import TrainLoader
from unifashion_pl.data.transforms import EncoderTransform, PixelTransform
from unifashion_pl.wardrobe.person import draw_figure, render_worn
from unifashion_pl.wardrobe.products import make_product

SIZES = {"1024 x 768": (1024, 768), "512 x 384": (512, 384)}
SIDE, BATCH, QUALITY = 224, 16, 92


def write_shards(root: Path, size: tuple[int, int], images: int) -> Path:
    """A catalogue of worn garments and its shards; the folder of the training split."""
    (root / "images").mkdir(parents=True)
    with open(root / "catalogue.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "split"])
        for i in range(images):
            rng, product = random.Random(f"loading/{i}"), make_product(0, i)
            picture = render_worn(product, size[1], size[0], draw_figure(rng), rng, rng).image
            picture.save(root / f"images/{i}.jpg", quality=QUALITY)
            table.writerow([f"images/{i}.jpg", f"{product.colour} {product.category}", "train"])
    (index,) = build_shards("catalogue", root, root / "shards", progress=False)
    return index.parent


def loader(folder: Path, painted: bool) -> TrainLoader[object]:
    pixels = PixelTransform((512, 384)) if painted else None
    return TrainLoader(ShardSource(folder), PairAssembler(EncoderTransform(SIDE), pixels), batch_size=BATCH)  # type: ignore[return-value]


def decode(folder: Path) -> Callable[[], None]:
    source = ShardSource(folder)
    files = [source.read(n).fields["image.jpg"] for n in range(len(source.keys))]

    def run() -> None:
        for data in files:
            Image.open(io.BytesIO(data)).load()

    return run


def consume(batches: TrainLoader[object]) -> Callable[[], None]:
    def run() -> None:
        for _ in batches:
            pass

    return run


def peer_image(data: bytes) -> Tensor:
    """TargetPad, bicubic, centre crop, normalisation, in Pillow and float32."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    if max(width, height) >= 1.25 * min(width, height):
        side = max(width, height) / 1.25
        x, y = max(int((side - width) / 2), 0), max(int((side - height) / 2), 0)
        image = ImageOps.expand(image, (x, y, x, y))
    short = min(image.size)
    image = image.resize((SIDE * image.width // short, SIDE * image.height // short), Image.Resampling.BICUBIC)
    left, top = round((image.width - SIDE) / 2), round((image.height - SIDE) / 2)
    pixels = (
        torch.from_numpy(np.asarray(image.crop((left, top, left + SIDE, top + SIDE))).copy()).permute(2, 0, 1).float() / 255
    )
    return (pixels - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]


def peer(folder: Path) -> Callable[[], None]:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]

    def batches() -> Iterator[Tensor]:
        samples = wds.WebDataset(urls, shardshuffle=False)
        rows: list[Tensor] = []
        for sample in samples:
            rows.append(peer_image(sample["image.jpg"]))
            if len(rows) == BATCH:
                yield torch.stack(rows)
                rows = []

    def run() -> None:
        for _ in batches():
            pass

    return run


def difference(folder: Path) -> float:
    """Largest difference of a pixel, on the scale 0..255, between what the tower sees here and in the other pipeline."""
    source, encoder = ShardSource(folder), EncoderTransform(SIDE)
    std, mean = (torch.tensor(x)[:, None, None] for x in (CLIP_STD, CLIP_MEAN))
    worst = 0.0
    for number in range(len(source.keys)):
        data = source.read(number).fields["image.jpg"]
        other = (peer_image(data) * std + mean) * 255
        worst = max(worst, float((encoder(Image.open(io.BytesIO(data))).float() - other).abs().max()))
    return worst


def measure(variants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median processor seconds of each; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, run in variants.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48, help=f"per size, a multiple of {BATCH}")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        for name, size in SIZES.items():
            folder = write_shards(Path(temporary) / name.replace(" ", ""), size, args.images)
            variants = {
                "decode": decode(folder),
                "seen": consume(loader(folder, painted=False)),
                "painted": consume(loader(folder, painted=True)),
                "peer": peer(folder),
            }
            seconds = measure(variants, args.rounds)
            ratios = ", ".join(f"{n} {s / seconds['decode']:.2f}" for n, s in seconds.items() if n != "decode")
            print(f"{name}, {args.images} JPEGs, in units of decoding alone: {ratios}")
            print(
                f"  usual pipeline / this one: {seconds['peer'] / seconds['seen']:.2f}; largest pixel difference {difference(folder):.2f}"
            )


if __name__ == "__main__":
    main()
