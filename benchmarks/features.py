"""What cached vision features cost and what they save: the same training steps on pixels and on features.

    python benchmarks/features.py                        # ViT-Small/16 at 224 pixels and a Q-Former of 4 layers, on the CPU
    python benchmarks/features.py --tower eva_giant_patch14_clip_224 --layers 12 --width 768 --batch-size 16 --device cuda   # the paper's

Triplets of the wardrobe in a temporary folder; a frozen tower with random weights (its numbers do not matter here, its size does); a
Q-Former with 32 queries learns L_cir. What is gained hangs on how large the tower's part of a step is, so the ratio of FLOPs is
printed beside that of times. Every variant loads its batches itself, takes turns with the others and
is measured in processor time (on a GPU in wall time, synchronised); printed are ratios and sizes. The losses of the first batch are compared
before anything learns: fp32 features give the loss of pixels.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from unifashion_pl.datamodules.checks import build_shards

from unifashion_pl.backbone import QFormerBackbone, VisionTower
from unifashion_pl.data.assemble import TripletAssembler
from unifashion_pl.data.features import FOLDER, FeatureSource
from unifashion_pl.data.make_features import write_features
from unifashion_pl.data.reader import ShardSource
from unifashion_pl.data.samples import TripletBatch
from unifashion_pl.data.stream import TrainLoader
from unifashion_pl.data.transforms import EncoderTransform
from unifashion_pl.tasks import RetrievalModule
from unifashion_pl.wardrobe import write_wardrobe

MIB = 2**20


class Clock:
    """Processor seconds of this process, or wall seconds with the GPU waited for."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() if self.cuda else time.process_time()


def endless(loader: TrainLoader[TripletBatch]) -> Iterator[TripletBatch]:
    while True:
        yield from loader


def on_device(batch: TripletBatch, device: str) -> TripletBatch:
    for name in ("references", "targets", "target_ids"):
        setattr(batch, name, getattr(batch, name).to(device))
    return batch


def total_loss(backbone: QFormerBackbone, head: RetrievalModule, batch: TripletBatch) -> torch.Tensor:
    torch.manual_seed(0)  # the same hard negatives for every variant
    return torch.stack(list(head.losses(backbone, batch, backbone.encode(batch)).values())).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", default="vit_small_patch16_224", help="timm model")
    parser.add_argument("--layers", type=int, default=4, help="of the Q-Former")
    parser.add_argument("--width", type=int, default=192, help="of the Q-Former, a multiple of 64")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tower = VisionTower(args.tower, image_size=224).requires_grad_(False).eval()
    sizes = {
        "num_layers": args.layers,
        "hidden_size": args.width,
        "num_heads": args.width // 64,
        "intermediate_size": 4 * args.width,
    }
    backbone = QFormerBackbone(tower, dropout=0.0, **sizes).to(args.device)
    head = RetrievalModule(hidden_size=args.width).to(args.device)
    with tempfile.TemporaryDirectory() as temporary:
        root = write_wardrobe(Path(temporary) / "raw", spec="tiny", workers=1, progress=False)
        indices = build_shards("fashioniq", root / "fashion-iq", Path(temporary) / "shards", progress=False)
        folder = next(path.parent for path in indices if "train" in path.parent.name)
        compare(folder, backbone, head, args)


def compare(folder: Path, backbone: QFormerBackbone, head: RetrievalModule, args: argparse.Namespace) -> None:
    """Make the features, check the losses, take turns."""
    clock, source = Clock(args.device), ShardSource(folder)
    assembler = TripletAssembler(EncoderTransform(224))
    loaders: dict[str, TrainLoader[TripletBatch]] = {"pixels": TrainLoader(source, assembler, batch_size=args.batch_size)}
    images = making = 0.0
    dtypes: tuple[Any, ...] = ("fp32", "bf16")
    for dtype in dtypes:
        start = clock.now()
        write_features(folder, backbone.vision, dtype=dtype, out=folder / FOLDER / dtype, progress=False, workers=1)
        making = clock.now() - start
        cached = FeatureSource(source, folder / FOLDER / dtype)
        loaders[dtype] = TrainLoader(cached, assembler, batch_size=args.batch_size)
        images = sum(file.images for file in cached.found.files)
        size = sum(file.bytes for file in cached.found.files) / images / MIB
        print(f"{dtype}: {cached.found.identity.tokens} tokens × {cached.found.identity.width}, {size:.3f} MiB an image")
    streams = {name: endless(loader) for name, loader in loaders.items()}
    with torch.no_grad():
        losses = {
            name: float(total_loss(backbone, head, on_device(next(stream), args.device))) for name, stream in streams.items()
        }
    for name in dtypes:
        print(f"loss of the first batch on {name} features / on pixels − 1: {losses[name] / losses['pixels'] - 1:+.1e}")
    flops = {}
    for name in ("pixels", "fp32"):
        with FlopCounterMode(display=False) as counter:
            total_loss(backbone, head, on_device(next(streams[name]), args.device)).backward()
        flops[name] = counter.get_total_flops()
    print(f"FLOPs of a step on pixels / on features: {flops['pixels'] / flops['fp32']:.2f}")
    optimizer = torch.optim.AdamW([p for p in [*backbone.parameters(), *head.parameters()] if p.requires_grad], lr=1e-5)
    taken: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(args.steps + 1):
        for name, stream in streams.items():
            start = clock.now()
            optimizer.zero_grad()
            total_loss(backbone, head, on_device(next(stream), args.device)).backward()
            optimizer.step()
            taken[name].append(clock.now() - start)
    step = {name: statistics.median(times[1:]) for name, times in taken.items()}
    for name in dtypes:
        print(f"a step on pixels / on {name} features, loading included: {step['pixels'] / step[name]:.2f}")
    saved = (step["pixels"] - step["bf16"]) / (2 * args.batch_size)
    print(f"making the features pays after {making / images / saved:.1f} times that each image is seen")


if __name__ == "__main__":
    main()
