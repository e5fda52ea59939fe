"""What loading costs per core, beside the pipeline that others write, on the same shards.

    python benchmarks/loading.py                     # 96 pictures of 512 x 384 (height x width)
    python benchmarks/loading.py --size 1024 768
    python benchmarks/loading.py --scale tiny        # seconds; figures mean nothing

Worn garments of the wardrobe, with a photo's grain so that a file is as large as a photo's (0.22 bytes a pixel; 4,172 photos of the CC0 clothing
dataset, made 192 pixels long at quality 80, have 0.21 in the median, 0.15 to 0.33 from the 5th to the 95th percentile), become shards of a catalogue
in a temporary folder. Taken in turns, in processor time of one thread:

* ``peer``        webdataset, ``decode("pil")``, the transforms of CIR code (TargetPad, Resize, CenterCrop, ToTensor, Normalize of torchvision);
* ``peer+paint``  the same, with the diffusion head's 512 x 384 pixels beside it (Resize, ToTensor, Normalize);
* ``seen``        ``TrainLoader``: seek, CRC-32, tar, decode, the vision tower's 224 pixels, batch; towers normalise on their device;
* ``painted``     the same with the diffusion head's pixels beside it, from one decoding;
* ``normalised``  ``seen``, normalised into float32 on the CPU nevertheless;
* ``pillow``, ``torchvision``  ``seen`` with their decoders;
* ``join``        a training step's 128 pairs of three datasets become one batch (64 + 40 + 24, 224 pixels and 512 x 384 beside them): copied once;
* ``join twice``  the same as ``torch.cat`` and rows chosen from it;
* ``decode``      Pillow decodes the bytes, nothing else;  ``build``  ``data shards`` in one process, from the same files.

Before anything is timed: what is decoded equals what Pillow decodes, value for value; what the tower sees differs from the peer's by at most 1 of 255,
because Pillow and torch round a resized picture differently; painted pixels are equal.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms.functional as TF
import webdataset as wds
from PIL import Image
from sidebyside import Goal, in_turns
from torch import Tensor
from torchvision.io import decode_jpeg
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from unifashion_pl.datamodules.checks import build_shards

from unifashion_pl.backbone.vision import CLIP_MEAN, CLIP_STD
from unifashion_pl.data import decode, jpegs
from unifashion_pl.data.assemble import PairAssembler
from unifashion_pl.data.reader import ShardSource
from unifashion_pl.data.samples import PairBatch
from unifashion_pl.data.stream import TrainLoader
from unifashion_pl.data.transforms import EncoderTransform, PixelTransform, to_tensor
from unifashion_pl.wardrobe.person import draw_figure, render_worn
from unifashion_pl.wardrobe.products import make_product

SIDE, PAINTED, BATCH, QUALITY, GRAIN = 224, (512, 384), 16, 92, 3.0
SCALES = {"full": (96, 9), "tiny": (BATCH, 1)}


def write_catalogue(root: Path, size: tuple[int, int], images: int) -> Path:
    """A catalogue of worn garments with grain; all of it trains."""
    (root / "images").mkdir(parents=True)
    with open(root / "catalogue.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "split"])
        for i in range(images):
            rng, product = random.Random(f"loading/{i}"), make_product(0, i)
            drawn = render_worn(product, size[1], size[0], draw_figure(rng), rng, rng).image.convert("RGB")
            grain = np.random.default_rng(i).normal(0, GRAIN, (*size, 1))
            Image.fromarray((np.asarray(drawn) + grain).clip(0, 255).astype(np.uint8)).save(
                root / f"images/{i}.jpg", quality=QUALITY
            )
            table.writerow([f"images/{i}.jpg", f"{product.colour} {product.category}", "train"])
    return root


def write_shards(catalogue: Path, out: Path) -> Path:
    """The folder of the training split."""
    (index,) = build_shards("catalogue", catalogue, out, progress=False)
    return index.parent


def target_pad(image: Image.Image, ratio: float = 1.25) -> Image.Image:
    """As code for composed retrieval has it: black bars until the sides are 1.25 to 1."""
    width, height = image.size
    if max(width, height) / min(width, height) < ratio:
        return image
    side = max(width, height) / ratio
    x, y = (max(int((side - length) / 2), 0) for length in (width, height))
    return TF.pad(image, [x, y, x, y], 0, "constant")


def cropped() -> list[Any]:
    return [target_pad, Resize(SIDE, InterpolationMode.BICUBIC), CenterCrop(SIDE)]


def peer(folder: Path, painted: bool) -> Iterator[list[Any]]:
    """The pipeline of others: batches of normalised floats."""
    seen = Compose([*cropped(), ToTensor(), Normalize(CLIP_MEAN, CLIP_STD)])
    paint = Compose([Resize(PAINTED, InterpolationMode.BICUBIC), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])

    def sample(row: Mapping[str, Any]) -> tuple[Any, ...]:
        image = row["image.jpg"]
        return (row["__key__"], row["meta.json"]["name"], seen(image), *([paint(image)] if painted else []))

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    yield from wds.WebDataset(urls, shardshuffle=False).decode("pil").map(sample).batched(BATCH)


def loader(folder: Path, painted: bool = False) -> TrainLoader[Any]:
    pixels = PixelTransform(PAINTED) if painted else None
    return TrainLoader(ShardSource(folder), PairAssembler(EncoderTransform(SIDE), pixels), batch_size=BATCH)


def by_torchvision(data: bytes, mode: str, width: int, height: int) -> Any:
    """In place of :func:`jpegs.jpeg_pixels`."""
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()


def with_decoder(run: Callable[[], None], decoder: Callable[..., Any]) -> Callable[[], None]:
    def instead() -> None:
        decode.jpeg_pixels = decoder
        try:
            run()
        finally:
            decode.jpeg_pixels = jpegs.jpeg_pixels

    return instead


def consume(batches: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        for _ in batches():
            pass

    return run


def normalised(batches: TrainLoader[Any]) -> Iterator[Tensor]:
    mean, std = (torch.tensor(x)[:, None, None] for x in (CLIP_MEAN, CLIP_STD))
    for batch in batches:
        yield (batch.images.float().div_(255).sub_(mean)).div_(std)


def compare(folder: Path) -> str:
    """Assert that the pixels are the peer's, and say how nearly.

    Raises:
        AssertionError: they are not.
    """
    source, seen, paint = ShardSource(folder), EncoderTransform(SIDE), PixelTransform(PAINTED)
    worst, off, values = 0, 0, 0
    for number in range(len(source.keys)):
        data = source.read(number).fields["image.jpg"]
        image, ours = Image.open(io.BytesIO(data)), decode.open_picture(data).rgb()
        theirs = np.asarray(image.convert("RGB"))
        assert np.array_equal(ours, theirs), "decoded pixels differ from Pillow's"
        difference = (seen(to_tensor(ours)).int() - to_tensor(Compose(cropped())(image)).int()).abs()
        worst, off, values = max(worst, int(difference.max())), off + int((difference > 0).sum()), values + difference.numel()
        if image.size == PAINTED[::-1]:
            assert np.array_equal(paint(to_tensor(ours)).permute(1, 2, 0).numpy(), theirs), "painted pixels differ"
    assert worst <= 1, f"what the tower sees differs by {worst} of 255"
    return f"decoded and painted pixels 0; at 224 at most {worst} of 255, in {100 * off / values:.0f} % of values"


def variants(catalogue: Path, folder: Path, more: bool) -> dict[str, Callable[[], None]]:
    seen, painted = loader(folder), loader(folder, painted=True)
    source = ShardSource(folder)
    files = [source.read(n).fields["image.jpg"] for n in range(len(source.keys))]
    out = catalogue / "again"

    def build() -> None:
        shutil.rmtree(out, ignore_errors=True)
        write_shards(catalogue, out)

    def decode_all() -> None:
        for data in files:
            Image.open(io.BytesIO(data)).load()

    runs = {
        "peer": consume(lambda: peer(folder, painted=False)),
        "seen": consume(lambda: seen),
        "peer+paint": consume(lambda: peer(folder, painted=True)),
        "painted": consume(lambda: painted),
        "decode": decode_all,
        "build": build,
    }
    if more:
        runs |= {
            "normalised": consume(lambda: normalised(seen)),
            "pillow": with_decoder(runs["seen"], lambda *_: None),
            "torchvision": with_decoder(runs["seen"], by_torchvision),
        }
    return runs


def pairs(rows: int, dataset: str) -> PairBatch:
    """A batch as the loader makes it, of noise."""
    noise = [
        torch.randint(0, 256, (rows, 3, *size), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
        for size in ((SIDE, SIDE), PAINTED)
    ]
    texts = {name: [f"{dataset} {i}" for i in range(rows)] for name in ("keys", "texts", "captions", "styles")}
    groups = {name: [""] * rows for name in ("categories", "subcategories")}
    return PairBatch(images=noise[0], pixels=noise[1], products=torch.arange(rows), dataset=dataset, **texts, **groups)


def joining(rounds: int) -> dict[str, float]:
    """Milliseconds that three datasets' batches take to become one of 128 rows.

    Raises:
        AssertionError: the two ways differ.
    """
    parts = [pairs(rows, dataset) for rows, dataset in ((64, "a/train"), (40, "b/train"), (24, "c/train"))]
    places = [((i + 0.5) / len(part), number) for number, part in enumerate(parts) for i in range(len(part))]
    order = sorted(range(len(places)), key=lambda row: places[row])
    once, twice = PairBatch.interleave(parts), PairBatch.cat(parts)[order]
    assert once.keys == twice.keys
    assert torch.equal(once.images, twice.images)
    assert once.pixels is not None
    assert twice.pixels is not None
    assert torch.equal(once.pixels, twice.pixels)
    calls = {"join": lambda: PairBatch.interleave(parts), "join twice": lambda: PairBatch.cat(parts)[order]}
    return {name: 1000 * seconds for name, seconds in in_turns(calls, rounds).items()}


def measured(size: tuple[int, int], scale: str, more: bool = False) -> tuple[dict[str, float], str]:
    """Milliseconds an image of each variant, and what was found equal."""
    images, rounds = SCALES[scale]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        catalogue = write_catalogue(Path(temporary) / "catalogue", size, images)
        folder = write_shards(catalogue, catalogue / "shards")
        equal = compare(folder)
        taken = in_turns(variants(catalogue, folder, more), rounds)
    return {name: 1000 * seconds / images for name, seconds in taken.items()}, equal


def goals(scale: str = "full") -> list[Goal]:
    """P5: at 224 pixels, and with the diffusion head's pixels beside them; shards against plain decoding."""
    taken, equal = measured(PAINTED, scale)
    command = "python benchmarks/loading.py"

    def goal(said: str, ours: str, theirs: str, wanted: float, name: str) -> Goal:
        times = {x: f"{taken[x]:.2f} ms an image" for x in (ours, theirs)}
        return Goal(said, times[ours], f"{name} {times[theirs]}", taken[theirs] / taken[ours], wanted, equal, command)

    usual = "webdataset + Pillow + torchvision"
    return [
        goal(f"loader, 224 pixels of 512 x 384 JPEGs >= 3 x {usual}, per core", "seen", "peer", 3.0, usual),
        goal(f"loader, with 512 x 384 pixels beside them >= 3 x {usual}, per core", "painted", "peer+paint", 3.0, usual),
        goal("shards are built in <= 1.5 x the time of decoding their files", "build", "decode", 1 / 1.5, "Pillow's decoder"),
    ]


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--size", type=int, nargs=2, default=list(PAINTED), metavar=("HEIGHT", "WIDTH"))
    told = parser.parse_args(args)
    taken, equal = measured((told.size[0], told.size[1]), told.scale, more=True)
    print(f"{told.size[0]} x {told.size[1]}, {SCALES[told.scale][0]} JPEGs: {equal}")
    for name, time in taken.items():
        print(f"  {name:<12} {time:6.2f} ms an image")
    print(
        f"  peer / seen {taken['peer'] / taken['seen']:.2f}, with what is painted {taken['peer+paint'] / taken['painted']:.2f}"
    )
    print(f"  build / decode {taken['build'] / taken['decode']:.2f}")
    for name, time in joining(SCALES[told.scale][1]).items():
        print(f"  {name:<12} {time:6.1f} ms a step")


if __name__ == "__main__":
    main()
