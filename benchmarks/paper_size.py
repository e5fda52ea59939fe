"""Speed and memory of the paper's size on one GPU, with random weights and synthetic batches: no download, no data.

    python benchmarks/paper_size.py --out OUT                     # all cases, most important first, as far as 14 minutes go
    python benchmarks/paper_size.py --out OUT --cases tryon,tower --minutes 10
    python benchmarks/paper_size.py --out OUT --scale tiny        # the same code on a CPU in a minute; its numbers mean nothing

Training cases take the shipped overlays (``paper.yaml`` and its stages, ``commercial.yaml`` within 24 GB). Each starts at the overlay's own
batch and looks for the largest that fits, by doubling or halving and then bisection; a step is forward, backward, clipping and
AdamW under bf16 autocast, as the trainer does it, timed as the median of at least ten. ``features`` repeats the same batch with the vision tower's
outputs in place of pictures and compares the losses. Phase 2 steps on triplets alone.

MFU: FLOPs of matrix products, convolutions and attentions that torch counts in a step, without those of recomputed activations, over the
time and over the best rate of a bare bf16 product in the same run. Sampling paints try-on pictures of 512 x 384 from encoding to
decoding. ``OUT/paper_size.json`` and ``.md`` are written anew after every row; what failed or had no time left stands there too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paper_parts import TRAININGS, Case, build, environment, flops, overlay_batch, synthetic, with_features
from torch import Tensor
from tqdm import tqdm

from unifashion_pl import UniFashionModule
from unifashion_pl.data.samples import EditBatch, TrainBatch, TryOnBatch
from unifashion_pl.optim import build_optimizer
from unifashion_pl.tasks.editing import edit_batch

GIB, TERA = 2**30, 1e12
#: In the order of importance.
ORDER = ("tower", "representation", "phase2", "tryon", "sampling", "commercial-phase1", "commercial-phase2", "llm", "diffusion",
         "sampling-compiled", "joint")  # fmt: skip


@dataclass
class Row:
    """One measurement; seconds are medians, ``rate`` is samples or pictures a second."""

    case: str
    variant: str
    batch: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    tflop: float = 0.0
    mfu: float = 0.0
    peak_gib: float = 0.0
    note: str = ""


@dataclass
class Bench:
    """Where and how large; what was measured so far.

    Attributes:
        peak: FLOP per second of a bare matrix product.
        end: ``time.monotonic`` at which nothing new is begun.
    """

    device: torch.device
    tiny: bool
    max_batch: int
    repeats: int
    out: Path
    end: float
    peak: float = 0.0
    rows: list[Row] = field(default_factory=list)

    @property
    def folder(self) -> Path | None:
        """Where the overlay of a tiny run goes."""
        return self.out if self.tiny else None

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], warmup: int = 2) -> float:
        """Median of ``repeats`` runs behind ``warmup``."""
        taken = []
        for _ in range(warmup + self.repeats):
            self.synchronize()
            start = time.perf_counter()
            work()
            self.synchronize()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[warmup:])

    @contextmanager
    def memory(self, row: Row) -> Iterator[None]:
        """Fill in the largest memory held inside."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        yield
        if self.device.type == "cuda":
            row.peak_gib = torch.cuda.max_memory_allocated() / GIB


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def largest(fits: Callable[[int], bool], start: int, limit: int) -> int:
    """The largest batch that fits, to an eighth; 0 if none does.

    >>> largest(lambda n: n <= 37, 8, 512), largest(lambda n: n <= 3, 32, 512), largest(lambda n: True, 8, 20)
    (36, 3, 20)
    """
    good, bad = 0, limit + 1
    probe = min(start, limit)
    while probe >= 1 and bad - good > 1:
        if fits(probe):
            good, probe = probe, min(2 * probe, limit)
            if good == limit:
                break
        else:
            bad, probe = probe, probe // 2
        if good and bad <= limit:
            break
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


class Step:
    """One training step of a model: forward, backward, clipping, AdamW."""

    def __init__(self, model: UniFashionModule, bench: Bench) -> None:
        self.model, self.bench = model, bench
        self.optimizer: torch.optim.Optimizer = build_optimizer(model, model.optim, 1000)["optimizer"]
        self.learnt = [p for p in model.parameters() if p.requires_grad]

    def loss(self, batch: TrainBatch) -> Tensor:
        torch.manual_seed(0)  # equal draws, so that variants compare
        with self.bench.autocast():
            return torch.stack([value.float() for value in self.model.compute_losses(batch).values()]).sum()

    def __call__(self, batch: TrainBatch) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learnt, 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def fits(self, kind: str, rows: int) -> bool:
        """Whether a step of so many rows has enough memory."""
        try:
            self(synthetic(kind, rows, self.model))
            return True
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            free()


def train(case: Case, bench: Bench) -> None:
    """Rows of a training: pictures, and vision features at the same batch."""
    if case.limit is not None and bench.device.type == "cuda":
        total = torch.cuda.get_device_properties(bench.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, case.limit * 1e9 / total))
    try:
        model = build(case, bench.device, bench.folder)
        step = Step(model, bench)
        own = overlay_batch(case.configs, case.batch)
        rows = largest(partial(step.fits, case.batch), min(own, bench.max_batch), bench.max_batch)
        if not rows:
            raise torch.cuda.OutOfMemoryError("not even a batch of 1 fits")
        notes = [f"own batch {own}" + (" fits" if rows >= own else " does not fit" if rows < bench.max_batch else "")]
        notes += [f"within {case.limit:.0f} GB"] if case.limit is not None else []
        notes += [f"nothing beyond {rows} was tried"] if rows == bench.max_batch else []
        batch: TrainBatch = synthetic(case.batch, rows, model)
        with bench.autocast():
            seen = with_features(batch, model.backbone.vision)
        with torch.no_grad():
            losses = [float(step.loss(part)) for part in (batch, seen)]
        for variant, part in (("pictures", batch), ("features", seen)):
            row = Row(
                case.name,
                variant,
                rows,
                note="; ".join(notes) if variant == "pictures" else f"loss {losses[1] / losses[0] - 1:+.1e}",
            )
            total, again = flops(partial(step, part), model)
            with bench.memory(row):
                row.seconds = bench.seconds(partial(step, part))
            _rates(row, total - again, bench)
            bench.rows.append(row)
            write(bench)
    finally:
        if case.limit is not None and bench.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)


def _rates(row: Row, counted: int, bench: Bench) -> None:
    row.rate, row.tflop = row.batch / row.seconds, counted / TERA
    row.mfu = counted / row.seconds / bench.peak


@torch.no_grad()
def tower(bench: Bench) -> None:
    """The frozen tower's forward pass alone."""
    model = build(TRAININGS[0], bench.device, bench.folder).backbone.vision
    rows = min(256, bench.max_batch)
    side = model.image_size
    images = torch.randint(0, 256, (rows, 3, side, side), dtype=torch.uint8, device=bench.device)
    row = Row("tower", "forward", rows)
    with bench.memory(row):
        row.seconds = bench.seconds(lambda: model(images))
    _rates(row, flops(lambda: model(images))[0], bench)
    bench.rows.append(row)


def painted(rows: int, model: UniFashionModule) -> tuple[EditBatch, Tensor]:
    """Try-on rows and their queries."""
    batch = synthetic("tryon", rows, model)
    assert isinstance(batch, TryOnBatch)
    shown = edit_batch(batch, ["tryon"] * rows)
    return shown, model.backbone.encode(shown).queries


@torch.no_grad()
def sampling(bench: Bench, compiled: bool) -> None:
    """Whole try-on pictures: one at a time and in the largest batch that is still faster."""
    case = next(case for case in TRAININGS if case.name == "tryon")
    model = build(case, bench.device, bench.folder).eval()
    head = model.diffusion_head
    assert head is not None
    head.denoiser.to(torch.bfloat16 if bench.device.type == "cuda" else torch.float32, memory_format=torch.channels_last)
    batch, queries = painted(1, model)
    counted = {name: flops(partial(head.paint, queries, batch, seeds=[0], sampler=name))[0] for name in ("fast", "paper")}
    if compiled:
        head.denoiser.compile()
    for sampler in counted:
        best = 0.0
        for rows in (1, 4, 16, 64):
            if rows > bench.max_batch or (compiled and rows not in (1, 16)) or time.monotonic() > bench.end:
                continue
            batch, queries = painted(rows, model)
            row = Row("sampling", f"{sampler}, {'compiled' if compiled else 'eager'}", rows)
            paint = partial(head.paint, queries, batch, seeds=range(rows), sampler=sampler)
            with bench.memory(row):
                row.seconds = replace(bench, repeats=max(3, bench.repeats // 3)).seconds(paint, warmup=1)
            _rates(row, rows * counted[sampler], bench)
            bench.rows.append(row)
            write(bench)
            if row.rate < 1.05 * best:
                break
            best = row.rate


def matmul_peak(bench: Bench) -> float:
    """Best FLOP per second of bare square products; bf16 on a GPU."""
    dtype, sizes = (torch.bfloat16, (4096, 8192, 16384)) if bench.device.type == "cuda" else (torch.float32, (256, 512))
    best = 0.0
    for n in sizes:
        a, b = (torch.randn(n, n, device=bench.device, dtype=dtype) for _ in range(2))
        best = max(best, 2 * n**3 / bench.seconds(lambda a=a, b=b: a @ b, warmup=3))  # type: ignore[misc]
    return best


def write(bench: Bench) -> None:
    """``paper_size.json`` and ``paper_size.md``."""
    where = {**environment(bench.device, bench.tiny), "matmul_peak_tflops": bench.peak / TERA}
    content = {"environment": where, "rows": [asdict(row) for row in bench.rows]}
    bench.out.mkdir(parents=True, exist_ok=True)
    (bench.out / "paper_size.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (bench.out / "paper_size.md").write_text(table(where, bench.rows), encoding="utf-8")


def table(where: dict[str, Any], rows: list[Row]) -> str:
    """Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [
        f"{where['device']}, {where['date']}, commit {where['commit']}, {versions}. Bare matrix product: "
        f"{where['matmul_peak_tflops']:.1f} TFLOP/s.",
        "",
        "| case | variant | batch | s | samples/s | TFLOP | MFU, % | peak GiB | |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        cells = ["–"] * 6
        if row.batch:
            work = (f"{row.tflop:.4g}", f"{100 * row.mfu:.1f}") if row.tflop else ("–", "–")
            cells = [str(row.batch), f"{row.seconds:.4g}", f"{row.rate:.4g}", *work, f"{row.peak_gib:.1f}"]
        lines.append(f"| {row.case} | {row.variant} | {' | '.join(cells)} | {row.note} |")
    return "\n".join(lines) + "\n"


def measure(name: str, bench: Bench) -> None:
    """Run one case; a failure becomes a row and stops no other."""
    trainings = {case.name: case for case in TRAININGS}
    try:
        if time.monotonic() > bench.end:
            bench.rows.append(Row(name, "not run", note="no time left"))
        elif name == "tower":
            tower(bench)
        elif name.startswith("sampling"):
            sampling(bench, compiled=name.endswith("compiled"))
        else:
            train(trainings[name], bench)
    except Exception as error:
        traceback.print_exc()
        bench.rows.append(Row(name, "failed", note=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"))
    free()
    write(bench)


def run(cases: list[str], bench: Bench) -> None:
    """All cases in their order."""
    bench.peak = matmul_peak(bench)
    for name in tqdm([name for name in ORDER if name in cases], desc="cases", unit="case"):
        measure(name, bench)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", choices=("paper", "tiny"), default="paper")
    parser.add_argument("--cases", default=",".join(ORDER), help=f"of {', '.join(ORDER)}")
    parser.add_argument("--minutes", type=float, default=14.0, help="no case begins later")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--max-batch", type=int, help="default 512, tiny 4")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    tiny = args.scale == "tiny"
    if args.device == "cpu" and not tiny:
        parser.error("the paper's size needs a GPU and there is none here: try --scale tiny")
    if unknown := set(args.cases.split(",")) - set(ORDER):
        parser.error(f"unknown cases {sorted(unknown)}; known are {', '.join(ORDER)}")
    end = time.monotonic() + 60 * args.minutes
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # batches of many sizes are tried
    bench = Bench(torch.device(args.device), tiny, args.max_batch or (4 if tiny else 512), args.repeats, args.out, end)
    run(args.cases.split(","), bench)
    print((args.out / "paper_size.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
