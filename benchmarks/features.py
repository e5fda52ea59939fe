"""What cached vision features save: an epoch of composed retrieval with its validation, on pixels and on features.

    python benchmarks/features.py                        # FLOPs at the paper's size; time with ViT-Small/16 and 4 layers, on the CPU: 5 minutes
    python benchmarks/features.py --only flops           # 1 minute
    python benchmarks/features.py --only persons         # half a minute: latents of try-on from disk, and from memory by a hash of pixels
    python benchmarks/features.py --scale tiny           # seconds; its ratios say nothing
    python benchmarks/features.py --only time --tower vit_base_patch16_224 --layers 6 --width 384

FLOPs are counted by torch on tensors without content: one step with L_cir and its backward pass, one gallery image, one query, times Fashion-IQ's
18,000 triplets, 15,536 images of the gallery and 6,016 queries, texts of 12 tokens. On pixels the tower sees both images of each triplet and the gallery once
(references of queries stand in it). Time is measured on the wardrobe's triplets (24, a gallery of 36, 18 queries): loading, training steps
and the whole evaluation, with equal losses and equal ranks on fp32 features asserted first. Of try-on, what the host does for the conditions of a
batch of 32 at 512 x 384 is timed (8 x 4 persons of the wardrobe): by itself, and with the batch's reading and decoding; the autoencoder is a
small one with the paper's latents, and is not timed, because all posteriors are known.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from sidebyside import Goal, in_turns
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from unifashion_pl.datamodules import FashionIQDataModule, VitonHDDataModule

from unifashion_pl import UniFashionModule
from unifashion_pl.backbone import QFormerBackbone, VisionTower
from unifashion_pl.data.features import FeatureIndex
from unifashion_pl.data.latents import PAINTED, Posteriors
from unifashion_pl.data.make_features import shard_folders, write_features
from unifashion_pl.data.samples import TripletBatch, TryOnBatch
from unifashion_pl.data.transforms import PixelTransform
from unifashion_pl.evaluation import Evaluator
from unifashion_pl.generation import ImageVAE
from unifashion_pl.tasks import RetrievalModule, retrieval
from unifashion_pl.tasks.editing import edit_batch, encodable, encode_conditions
from unifashion_pl.wardrobe import write_wardrobe

#: Fashion-IQ's triplets to train on, images of the validation's galleries, its queries (all [V] on the published annotations).
TRIPLETS, GALLERY, QUERIES = 18_000, 15_536, 6_016
WANTED = 8.0
TEXT = "is longer and has a blue collar with white buttons"
MIB = 2**20


@dataclass(frozen=True)
class Size:
    """A frozen tower and a Q-Former over it."""

    tower: str
    side: int
    timm_kwargs: dict[str, Any]
    qformer: dict[str, Any]

    def build(self) -> UniFashionModule:
        """With random weights: their values do not matter here, their sizes do."""
        tower = VisionTower(self.tower, image_size=self.side, timm_kwargs=self.timm_kwargs)
        backbone = QFormerBackbone(tower, dropout=0.0, **self.qformer)
        head = RetrievalModule(hidden_size=backbone.hidden_size, negatives="argmax")
        evaluator = Evaluator(composed_ks=(1, 5))
        return UniFashionModule(backbone, head, policy="phase2_composed", evaluator=evaluator)


def qformer(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {"num_layers": layers, "hidden_size": width, "num_heads": heads, "intermediate_size": 4 * width}


PAPER = Size("eva_giant_patch14_clip_224", 224, {"depth": 39}, qformer(12, 768, 12))
SMALL = Size("vit_small_patch16_224", 224, {}, qformer(4, 192, 3))
TINY = Size("resnet10t", 32, {"channels": (8, 8, 16, 16), "stem_width": 8, "output_stride": 8}, qformer(4, 32, 2))


def flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def counted(size: Size, command: str) -> Goal:
    """FLOPs of an epoch with its validation."""
    with torch.device("meta"):
        model = size.build()
    backbone, head, rows = model.backbone, model.retrieval_head, 16
    assert head is not None
    with FakeTensorMode(allow_non_fake_inputs=True), neighbours():
        model.to_empty(device="cpu")
        pictures = torch.zeros(1, 3, size.side, size.side, dtype=torch.uint8)
        tower = flops(lambda: backbone.vision(pictures))
        seen = backbone.vision(pictures).expand(rows, -1, -1)
        batch = triplets(seen)

        def step() -> None:
            losses = head.losses(backbone, batch, backbone.encode(batch))
            torch.stack(list(losses.values())).sum().backward()

        a_step = flops(step) / rows
        model.requires_grad_(False)  # the counter follows modules by their gradients
        an_image = flops(lambda: head.image_embeddings(backbone, seen, "target")) / rows
        a_query = flops(lambda: head.compose(backbone, seen, batch.texts)) / rows
    ours = TRIPLETS * a_step + GALLERY * an_image + QUERIES * a_query
    passed = 2 * TRIPLETS + GALLERY
    peer = ours + passed * tower
    before = ours + (GALLERY + QUERIES) * tower
    print(
        f"GFLOP: tower {tower / 1e9:.4g} an image; with features a step {a_step / 1e9:.4g} a triplet, a gallery image {an_image / 1e9:.4g}, "
        f"a query {a_query / 1e9:.4g}. Features in training alone, validation on pixels and each reference once more: {peer / before:.2f} x"
    )
    return Goal(
        goal=f"composed-retrieval epoch with its validation on cached features >= {WANTED:g} x fewer FLOPs than on pixels",
        ours=f"{ours / 1e15:.3g} PFLOP",
        peer=f"pixels {peer / 1e15:.3g} PFLOP",
        ratio=peer / ours,
        wanted=WANTED if size is PAPER else None,
        equal="the same modules and shapes",
        command=command,
    )


@contextmanager
def neighbours() -> Iterator[None]:
    """Negatives that no value chooses, where :mod:`unifashion_pl.tasks.retrieval` asks for their number: tensors without content have none."""

    def chosen(scores: Tensor, ids: Tensor | None = None, **_: Any) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(scores))
        return rows, (rows + 1) % len(scores)

    with patch.object(retrieval, "hard_negatives", chosen) if hasattr(retrieval, "hard_negatives") else nullcontext():
        yield


def triplets(seen: Tensor) -> TripletBatch:
    """A batch on features, each target another image."""
    rows = len(seen)
    return TripletBatch(
        keys=[str(i) for i in range(rows)], references=seen, targets=seen, texts=[TEXT] * rows, captions=["A blue dress."] * rows,
        styles=["fashioniq"] * rows, target_ids=torch.arange(rows), pixels=None, categories=["dress"] * rows, dataset="fashioniq/train",
    )  # fmt: skip


@dataclass
class Epoch:
    """One epoch over all triplets and the validation after it, always from the same start."""

    model: UniFashionModule
    data: FashionIQDataModule

    def __post_init__(self) -> None:
        self.start = deepcopy(self.model.state_dict())

    def run(self) -> tuple[list[float], dict[str, float]]:
        """Losses of the steps, and what the validation finds."""
        self.model.load_state_dict(self.start)
        self.model.train()
        optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-5)
        losses = []
        for batch in self.data.train_loader():
            optimizer.zero_grad()
            found = self.model.compute_losses(batch)
            total = torch.stack(list(found.values())).sum()
            total.backward()
            optimizer.step()
            losses.append(float(total.detach()))
        self.model.eval()
        self.model.evaluator.start("validation")
        for batch in (batch for loader in self.data.val_dataloader() for batch in loader):
            self.model.evaluator.update(self.model, batch)
        return losses, self.model.evaluator.finish(None)


def timed(size: Size, command: str, batch_size: int = 8, rounds: int = 3) -> Iterator[Goal]:
    """Processor time of epochs on pixels and on features."""
    torch.manual_seed(0)
    model = size.build()
    dtypes: tuple[Any, ...] = ("fp32", "bf16")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root = write_wardrobe(folder / "raw", spec="tiny", workers=1, progress=False) / "fashion-iq"
        options: dict[str, Any] = {"image_size": size.side, "batch_size": batch_size}
        FashionIQDataModule(root, folder / "shards", **options).prepare_data()
        making, _ = (write(folder, model.backbone.vision, dtype) for dtype in dtypes)
        features = {"pixels": False, **{dtype: str(folder / dtype) for dtype in dtypes}}
        epochs = {
            name: Epoch(model, FashionIQDataModule(None, folder / "shards", features=kept, **options))  # type: ignore[arg-type]
            for name, kept in features.items()
        }
        (losses, found), (ours, ours_found) = epochs["pixels"].run(), epochs["fp32"].run()
        error = max(abs(a / b - 1) for a, b in zip(ours, losses, strict=True))
        assert error < 1e-4, (ours, losses)
        assert ours_found == found, (ours_found, found)
        took = in_turns({name: epoch.run for name, epoch in epochs.items()}, rounds)
    pays = making / (took["pixels"] - took["fp32"])
    for dtype in dtypes:
        yield Goal(
            goal=f"the same with {size.tower}, {dtype} features, processor time (making them pays after {pays:.2f} epochs)",
            ours=f"{took[dtype]:.3g} s",
            peer=f"pixels {took['pixels']:.3g} s",
            ratio=took["pixels"] / took[dtype],
            wanted=None,
            equal=f"losses of {len(losses)} steps {error:.0e}, recalls the same" if dtype == "fp32" else "",
            command=command,
        )


def write(folder: Path, tower: VisionTower, dtype: Any) -> float:
    """Make features of all shards; returns processor seconds."""
    made: list[Path] = []
    start = time.process_time()
    for shards in shard_folders(folder / "shards"):
        index = write_features(
            shards, tower, dtype=dtype, out=folder / dtype / shards.name, known=made, progress=False, workers=1
        )
        made.append(index.parent)
    took = time.process_time() - start
    images = sum(file.images for out in made for file in FeatureIndex.load(out).files)
    size = sum(file.bytes for out in made for file in FeatureIndex.load(out).files)
    print(f"{dtype}: {images} images, {size / images / MIB:.3f} MiB each")
    return took


def persons(size: tuple[int, int], command: str, rows: int = 32, rounds: int = 5) -> Iterator[Goal]:
    """Host time of the conditions of try-on, from latents kept on disk and from those that the autoencoder knows by a hash of pixels."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = ImageVAE(config={"latent_channels": 4, "block_out_channels": [4] * 4, "norm_num_groups": 4, **blocks}, cache=1000)
    reader: Any = SimpleNamespace(reads_garments=True)

    def conditions(batch: TryOnBatch) -> dict[str, Tensor]:
        shown = edit_batch(batch, ["tryon"] * len(batch))
        torch.manual_seed(0)
        target = vae.encode(encodable(shown, "person"), sample=True)
        return {"target": target, **encode_conditions(vae, reader, shown, sample=True)}

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root = write_wardrobe(folder / "raw", spec="tiny", workers=1, progress=False) / "viton-hd"
        options: dict[str, Any] = {"image_size": 224, "pixel_size": size, "batch_size": 4}
        VitonHDDataModule(root, folder / "shards", **options).prepare_data()
        settings: dict[str, Any] = {"encoder": PixelTransform(size), "dtype": "fp32", "fields": PAINTED, "evaluated": ()}
        shards = folder / "shards" / "tryon-train"
        write_features(shards, Posteriors(vae), out=shards / "latents", batch_size=4, progress=False, **settings)
        data = {kept: VitonHDDataModule(None, folder / "shards", latents=kept, **options) for kept in (False, True)}

        def batches(kept: bool) -> list[TryOnBatch]:
            return [batch for _ in range(rows // 4) for batch in data[kept].train_loader()]

        loaded = {kept: TryOnBatch.cat(batches(kept)) for kept in data}
        ours, peer = conditions(loaded[True][range(4)]), conditions(loaded[False][range(4)])
        error = max(float((ours[name] - value).abs().max()) for name, value in peer.items())
        assert error < 1e-4, error
        alone = in_turns({str(kept): lambda kept=kept: conditions(loaded[kept]) for kept in data}, rounds)
        read = {str(kept): lambda kept=kept: [conditions(batch) for batch in batches(kept)] for kept in data}
        whole = in_turns(read, rounds)
    for what, took in (("", alone), (", with reading and decoding the batch", whole)):
        yield Goal(
            goal=f"conditions of {rows} persons at {size[0]} x {size[1]}, host's processor time{what}",
            ours=f"{took['True'] * 1e3:.3g} ms",
            peer=f"hash of pixels {took['False'] * 1e3:.3g} ms",
            ratio=took["False"] / took["True"],
            wanted=None,
            equal=f"latents drawn {error:.0e}",
            command=command,
        )


def goals(scale: str = "full", only: str | None = None) -> list[Goal]:
    """FLOPs at the paper's size, then time at a small one."""
    command = "python benchmarks/features.py"
    sizes = (PAPER, SMALL) if scale == "full" else (TINY, TINY)
    rounds = 3 if scale == "full" else 1
    found: list[Goal] = []
    if only in (None, "flops"):
        found.append(counted(sizes[0], f"{command} --only flops"))
    if only in (None, "time"):
        found += timed(sizes[1], f"{command} --only time", rounds=rounds)
    if only in (None, "persons"):
        side, rows = ((512, 384), 32) if scale == "full" else ((64, 48), 4)
        found += persons(side, f"{command} --only persons", rows, rounds)
    return found


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--only", choices=("flops", "time", "persons"))
    parser.add_argument("--tower", help="timm model of another size, with --only time")
    parser.add_argument("--layers", type=int, default=4, help="of the Q-Former, with --tower")
    parser.add_argument("--width", type=int, default=192, help="of the Q-Former, with --tower, a multiple of 64")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    if args.tower:
        size = Size(args.tower, 224, {}, qformer(args.layers, args.width, args.width // 64))
        lines = list(timed(size, "", args.batch_size))
    else:
        lines = goals(args.scale, args.only)
    for line in lines:
        met = {True: "met", False: "MISSED", None: ""}[line.met]
        print(f"{line.goal} | {line.ours} | {line.peer} | {line.ratio:.2f} x {met} | {line.equal}", flush=True)


if __name__ == "__main__":
    main()
